"""Is variant A better than variant B?

With one training each, nothing can be said of the *methods*: another training seed can turn the
order round. What can be said, over the same prompts and generation seeds, is whether these two
checkpoints differ by more than the choice of prompts would. From ``ENOUGH_TRAININGS`` of each on,
the bootstrap resamples their seeds, too, and the verdict is on the methods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from nsync_pipeline.metrics.bootstrap import Interval, holm, interval, two_sided_p
from nsync_pipeline.metrics.trainings import ENOUGH_TRAININGS, VariantScores
from nsync_pipeline.settings import Section
from nsync_pipeline.workspace import BASE

Verdict = Literal["better", "worse", "trade-off", "as good", "inconclusive"]

SIGNIFICANCE = 0.05
SEEN = 0.05
"""The share of the way from the base to real pictures below which nobody could see a difference."""


JUDGED = "content_recognised"
"""What a judge of the drawn world says of the content."""


class GuardrailConfig(Section):
    """How much worse than another checkpoint one may be in content, and still count as better."""

    prompt_fidelity_drop: float = Field(
        default=2.0, ge=0, le=200, description="CLIP-T points (cosine x 100)"
    )
    content_drop: float = Field(
        default=0.05, ge=0, le=1,
        description="share of the things asked for that a judge sees; asked instead of prompt "
        "fidelity where pictures are of the drawn world",
    )  # fmt: skip
    copy_rate_rise: float = Field(
        default=0.1, ge=0, le=1, description="share of pictures that are near-copies"
    )
    diversity_drop: float = Field(
        default=0.1, ge=0, le=10, description="in the distance of the Vendi ratio from 1"
    )


@dataclass(frozen=True)
class Comparison:
    """``a`` against ``b``: differences are a minus b, paired over training seeds and prompts."""

    a: str
    b: str
    style_margin: Interval  # better above 0
    cmmd: Interval  # better below 0
    p_style_margin: float  # two-sided, Holm-adjusted over the comparisons made
    p_cmmd: float
    a_breaks: tuple[str, ...]  # guardrails on which a is worse than b by more than is allowed
    b_breaks: tuple[str, ...]
    verdict: Verdict  # of a
    trainings: int = 1  # of each; the base has none
    seen_style_margin: float = 0.0  # smaller differences nobody could see
    seen_cmmd: float = 0.0

    @property
    def of_methods(self) -> bool:
        """It would hold for other trainings of the same variants; else for these checkpoints."""
        return self.trainings >= ENOUGH_TRAININGS


def compare(
    pairs: Sequence[tuple[str, str]],
    scores: Mapping[str, VariantScores],
    real: Mapping[str, Interval],
    guardrails: GuardrailConfig,
) -> list[Comparison]:
    """Compare the variants named in each pair (a, b), as one family of comparisons.

    ``real`` is the ceiling: the figures of real pictures.

    A is *better* when both primary differences (style margin, CMMD) are significant in its favour,
    and large enough to be seen, and no guardrail is broken; *worse* when b is better than it;
    *trade-off* when the two primaries point to different ones or the better one breaks a guardrail.
    Where both are smaller than anyone could see (``alike``), a is *as good* as b, unless one of
    them breaks a guardrail: that one is worse. Else it is *inconclusive*.
    A pair with a metric that could not be computed is left out.
    """
    seen = {name: SEEN * _way(name, scores, real) for name in ("style_margin", "cmmd")}
    whole = [(a, b) for a, b in pairs if all("cmmd" in scores[name].figures for name in (a, b))]
    margins = [_difference("style_margin", scores[a], scores[b]) for a, b in whole]
    distances = [_difference("cmmd", scores[a], scores[b]) for a, b in whole]
    p_margins = holm([p for _, p in margins])
    p_distances = holm([p for _, p in distances])
    comparisons = []
    for index, (a, b) in enumerate(whole):
        first, second = scores[a], scores[b]
        comparison = Comparison(
            a=a,
            b=b,
            style_margin=margins[index][0],
            cmmd=distances[index][0],
            p_style_margin=p_margins[index],
            p_cmmd=p_distances[index],
            a_breaks=broken_guardrails(first, second, real, guardrails),
            b_breaks=broken_guardrails(second, first, real, guardrails),
            verdict="inconclusive",
            trainings=min(one.trainings for one in (first, second) if one.trainings),
            seen_style_margin=seen["style_margin"],
            seen_cmmd=seen["cmmd"],
        )
        comparisons.append(replace(comparison, verdict=_verdict(comparison)))
    return comparisons


def broken_guardrails(
    a: VariantScores, b: VariantScores, real: Mapping[str, Interval], allowed: GuardrailConfig
) -> tuple[str, ...]:
    """The metrics on which a is worse than b by more than ``allowed``, by their point estimates.

    Nobody is asked for more prompt fidelity than real pictures of the style have: features that
    know a generic style better than this one rate its pictures higher, whatever they show. Where a
    judge of the drawn world says what a picture shows, that counts instead.
    """
    first, second = ({k: v.value for k, v in s.figures.items()} for s in (a, b))
    content = JUDGED if JUDGED in first and JUDGED in second else "prompt_fidelity"
    asked = min(second[content], real[content].value if content in real else second[content])
    worse = {
        content: asked - first[content],
        "copy_rate": first["copy_rate"] - second["copy_rate"],
        "diversity": abs(first["diversity"] - 1.0) - abs(second["diversity"] - 1.0),
    }
    limits = {
        "prompt_fidelity": allowed.prompt_fidelity_drop,
        JUDGED: allowed.content_drop,
        "copy_rate": allowed.copy_rate_rise,
        "diversity": allowed.diversity_drop,
    }
    return tuple(name for name, by in worse.items() if by > limits[name])


def _difference(name: str, a: VariantScores, b: VariantScores) -> tuple[Interval, float]:
    draws = a.draws[name] - b.draws[name]
    value = a.figures[name].value - b.figures[name].value
    return interval(value, draws), two_sided_p(draws)


def _way(name: str, scores: Mapping[str, VariantScores], real: Mapping[str, Interval]) -> float:
    """How far it is from the base's figure to that of real pictures; 0 where that is not known."""
    base = scores[BASE].figures.get(name) if BASE in scores else None
    return abs(real[name].value - base.value) if base is not None and name in real else 0.0


def _verdict(comparison: Comparison) -> Verdict:
    # +1 where the metric favours a, surely and for all to see, -1 where b, 0 where neither.
    two = (
        (comparison.style_margin, comparison.p_style_margin, comparison.seen_style_margin, 1),
        (comparison.cmmd, comparison.p_cmmd, comparison.seen_cmmd, -1),
    )
    margin, distance = (
        sign * np.sign(one.value) * (p <= SIGNIFICANCE and abs(one.value) >= seen)
        for one, p, seen, sign in two
    )
    a_breaks, b_breaks = bool(comparison.a_breaks), bool(comparison.b_breaks)
    if alike(comparison):
        if a_breaks != b_breaks:
            return "worse" if a_breaks else "better"
        return "trade-off" if a_breaks else "as good"
    if margin == distance == 1:
        return "trade-off" if a_breaks else "better"
    if margin == distance == -1:
        return "trade-off" if b_breaks else "worse"
    return "trade-off" if margin * distance == -1 else "inconclusive"


def alike(comparison: Comparison) -> bool:
    """By both measures they differ by less than can be seen, and surely by less than twice that."""
    both = (
        (comparison.style_margin, comparison.seen_style_margin),
        (comparison.cmmd, comparison.seen_cmmd),
    )
    return all(
        abs(one.value) < seen and max(abs(one.low or 0.0), abs(one.high or 0.0)) < 2 * seen
        for one, seen in both
    )
