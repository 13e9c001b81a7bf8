"""Style against content over several ways of drawing: a training is a curve, not a point.

A way of drawing (a LoRA strength, a form of guidance) gives a point of two shares between 0 and 1:
``c`` of the content that can be asked for, and ``s`` of the style. The *area under the curve* of a
set of points is

    A = integral from 0 to 1 of max {s_i : c_i >= c} dc        (the maximum of none is 0),

the mean, over the content that is asked for, of the most style that some point shows at that
content or more. It is the area of the union of the rectangles from (0, 0) to (c_i, s_i): their
hypervolume with the reference point (0, 0). So a point that another one equals or exceeds in both
shares adds nothing, neither order nor repetition matters, and one more point never takes away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nsync_pipeline.metrics.distances import Floats, Indices
from nsync_pipeline.metrics.verdict import JUDGED

STYLE_JUDGED = "style_recognised"
"""What a judge of the drawn world says of the style."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Scale:
    """A metric's values that count as nothing and as all of what can be had."""

    metric: str
    floor: float
    top: float

    def shares(self, values: Floats) -> Floats:
        """``values`` as shares of the way from floor to top, within 0 and 1."""
        shares: Floats = np.clip((values - self.floor) / (self.top - self.floor), 0.0, 1.0)
        return shares

    @property
    def is_defined(self) -> bool:
        """The top is above the floor, and by more than rounding."""
        return self.top - self.floor > 1e-9


def area_under(style: Floats, content: Floats) -> Floats:
    """``A`` of points whose shares are (..., K) each: (...); nan where a share is."""
    order = np.argsort(-content, axis=-1, kind="stable")
    falling = np.take_along_axis(content, order, axis=-1)
    best = np.maximum.accumulate(np.take_along_axis(style, order, axis=-1), axis=-1)
    down_to = np.concatenate([falling[..., 1:], np.zeros_like(falling[..., :1])], axis=-1)
    area: Floats = (best * (falling - down_to)).sum(axis=-1)
    return area


def style_scale(base: Mapping[str, float], real: Mapping[str, float]) -> Scale:
    """Of what a judge recognises, from none to all; else of the style margin, from base to real."""
    if STYLE_JUDGED in base:
        return Scale(STYLE_JUDGED, 0.0, 1.0)
    margin = "style_margin"
    return Scale(margin, base[margin], real[margin])


def content_scale(base: Mapping[str, float], real: Mapping[str, float], mismatched: float) -> Scale:
    """Of what a judge recognises, from none to all; else of CLIP-T.

    There 0 is what the base's pictures have for captions of others (``mismatched``), and 1 what
    they have for their own, or real pictures have, where that is less.
    """
    if JUDGED in base:
        return Scale(JUDGED, 0.0, 1.0)
    clip = "prompt_fidelity"
    return Scale(clip, mismatched, min(base[clip], real.get(clip, base[clip])))


def mismatched_fidelity(pictures: Floats, captions: Floats, unit: Indices) -> float:
    """The mean of ``100 cos(picture_i, caption_j)`` over i, j of different captions.

    Args:
        pictures: unit rows (N, d).
        captions: of each picture its own, unit rows (N, d).
        unit: which caption each row is of, (N,).

    nan where all are of one caption.
    """
    others = unit[:, None] != unit[None, :]
    cosines = 100.0 * (pictures @ captions.T)
    return float(cosines[others].mean()) if others.any() else float("nan")


@dataclass(frozen=True)
class Standing:
    """How a way of drawing does, as far as a choice goes by it."""

    style: float  # higher is better
    breaks: int  # guardrails against the base that it breaks


def chosen(standings: Mapping[Key, Standing]) -> Key:
    """The way that is best: the most style among those that break the fewest guardrails.

    Of equals the first. It is to be judged on other captions than it is chosen by.
    """
    return min(standings, key=lambda key: (standings[key].breaks, -standings[key].style))


def halves(units: Sequence[int], rng: np.random.Generator) -> tuple[Indices, Indices]:
    """``units`` in two: those that choose, and those, one more where they are odd, that judge."""
    order = rng.permutation(np.asarray(units, dtype=np.int64))
    half = len(order) // 2
    return np.sort(order[:half]), np.sort(order[half:])
