"""How much the pictures of a look have of the style, and how far so few of them can be trusted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.picture_metrics import prototype, style_scores


@dataclass(frozen=True)
class StyleTargets:
    """What the pictures of every look are measured against; all of it from the training split."""

    style: Floats  # (d,) the prototype of the training pictures
    rivals: Floats  # (K, d) of the negatives, and of what the model drew before the first step


def style_targets(style: Floats, *rivals: Floats) -> StyleTargets:
    """The prototypes of unit features (N, d), one or more rivals.

    Raises:
        ValueError: one of them is empty, or has no mean direction.
    """
    return StyleTargets(prototype(style), np.stack([prototype(found) for found in rivals]))


def style_margins(features: Floats, targets: StyleTargets) -> tuple[float, ...]:
    """Of each picture of unit ``features`` (P, d): its cosine to the style's prototype, less that
    to the nearest rival's."""
    return tuple(style_scores(features, targets.style, targets.rivals).margin.tolist())


@dataclass(frozen=True)
class LookScore:
    """The style margin of one look."""

    step: int  # steps done
    margins: tuple[float, ...]  # one a picture; the same captions and seeds at every look

    @property
    def style_margin(self) -> float:
        """The mean over the pictures."""
        return fmean(self.margins)

    @property
    def standard_error(self) -> float | None:
        """Of the mean over captions; None for a single picture."""
        if len(self.margins) < 2:
            return None
        return stdev(self.margins) / math.sqrt(len(self.margins))

    def figures(self) -> dict[str, float]:
        """The values there are."""
        found = {"look_style_margin": self.style_margin}
        error = self.standard_error
        return found if error is None else found | {"look_style_margin_error": error}


@dataclass(frozen=True)
class PairedDifference:
    """How much higher one look scores than another."""

    mean: float
    standard_error: float | None  # None for a single picture

    @property
    def told_apart(self) -> bool:
        """The difference is above twice its standard error."""
        return self.standard_error is not None and abs(self.mean) > 2 * self.standard_error


def paired_difference(a: LookScore, b: LookScore) -> PairedDifference:
    """``a`` less ``b``, picture by picture: each pair has the same caption and seed."""
    differences = [x - y for x, y in zip(a.margins, b.margins, strict=True)]
    error = None
    if len(differences) > 1:
        error = stdev(differences) / math.sqrt(len(differences))
    return PairedDifference(fmean(differences), error)


def best_look(scores: Mapping[int, LookScore]) -> LookScore:
    """The highest; the earliest of those as high. ``scores``, by steps done, is not empty."""
    return max((scores[step] for step in sorted(scores)), key=lambda score: score.style_margin)


@dataclass(frozen=True)
class Best:
    """The best look so far."""

    step: int  # optimizer steps done
    score: float  # higher is better


def better(best: Best | None, step: int, score: float | None) -> bool:
    """Whether the look after ``step`` steps is the best; untrained weights never are.

    Of two with the same score the earlier is: what was learned since brought nothing.
    """
    if score is None or step == 0:
        return False
    return best is None or score > best.score
