"""Every variant in all ways of drawing: its curve, the way that is best for it, and who is ahead.

The best way is chosen on one half of the captions and judged on the other. Areas under the curve
are of all captions: nothing is chosen for them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.metrics.bootstrap import Interval, holm, interval, two_sided_p
from nsync_pipeline.metrics.curves import (
    Scale,
    Standing,
    area_under,
    chosen,
    content_scale,
    halves,
    mismatched_fidelity,
    style_scale,
)
from nsync_pipeline.metrics.distances import Floats, Indices
from nsync_pipeline.metrics.scores import PictureSet, Reference, SetScores, score_set
from nsync_pipeline.metrics.trainings import VariantScores, of_base, over_trainings
from nsync_pipeline.metrics.verdict import (
    Comparison,
    GuardrailConfig,
    broken_guardrails,
    compare,
)
from nsync_pipeline.workspace import BASE, TrainingRun

ENOUGH_TO_CHOOSE = 4
"""Captions: two to choose by and two to judge by."""


@dataclass(frozen=True)
class Choice:
    """The way that was chosen for a variant, with its figures on the captions that judge."""

    way: str  # its key
    figures: dict[str, Interval]
    breaks: tuple[str, ...]  # guardrails against the base, on those captions


@dataclass(frozen=True)
class AreaDifference:
    """The area of ``a`` less that of ``b``, paired over training seeds and captions."""

    a: str
    b: str
    difference: Interval
    p: float  # two-sided, Holm-adjusted over the pairs


@dataclass(frozen=True)
class Curves:
    """What an evaluation says of several ways of drawing."""

    ways: list[GuidanceConfig]  # as params.yaml asks for them; the first is generation.guidance
    style: Scale
    content: Scale
    variants: dict[str, dict[str, dict[str, Interval]]]  # by variant, way and metric
    areas: dict[str, Interval]  # by variant; none where a scale is not defined
    area_differences: list[AreaDifference]
    choosing: int  # captions
    judging: int
    best: dict[str, Choice]  # by variant; none where too few captions, or nothing, can judge
    best_ordinary: dict[str, Choice]  # among the ways that any program draws in
    now: dict[str, Choice]  # the first way, as if it had been chosen
    comparisons: list[Comparison]  # of variants, each drawn in its best way


@dataclass(frozen=True)
class Drawn:
    """All that was drawn: by training and way."""

    base: PictureSet
    trainings: Mapping[tuple[TrainingRun, str], PictureSet]


@dataclass(frozen=True)
class Scoring:
    """What every set of an evaluation is scored by."""

    reference: Reference
    draws: Floats  # (D, units)
    seeds: Floats  # (D, trainings), weights
    real: Mapping[str, Interval]  # the ceiling
    guardrails: GuardrailConfig
    stream: Callable[[str, str], np.random.Generator]

    def on(self, pictures: PictureSet, name: str, draws: Floats) -> SetScores:
        return score_set(pictures, self.reference, draws, self.stream("diversity", name))


def measure_curves(
    ways: Sequence[GuidanceConfig],
    runs: Sequence[TrainingRun],
    drawn: Drawn,
    scoring: Scoring,
    known: Mapping[str, SetScores],
    on_set: Callable[[int, int], None],
    can_judge: bool,
) -> Curves:
    """Score every variant in all ``ways``; ``known`` are the scores of the base and of the first.

    Args:
        on_set: is told how many sets of how many are scored.
        can_judge: the features and the base know such pictures; else nothing is chosen.
    """
    keys = [way.key for way in ways]
    variants = list(dict.fromkeys(run.variant for run in runs))
    scores: dict[tuple[TrainingRun, str], SetScores] = {}
    for (run, key), pictures in drawn.trainings.items():
        on_set(len(scores), len(drawn.trainings))
        if key == keys[0]:
            scores[run, key] = known[run.name]
        else:
            scores[run, key] = scoring.on(pictures, f"{run.name}, {key}", scoring.draws)
    on_set(len(scores), len(drawn.trainings))
    by_variant = {
        variant: {
            key: over_trainings([scores[run, key] for run in own], scoring.seeds).figures
            for key in keys
        }
        for variant in variants
        if (own := [run for run in runs if run.variant == variant])
    }
    base, real = ({n: f.value for n, f in of.items()} for of in (known[BASE].figures, scoring.real))
    style = style_scale(base, real)
    mismatched = mismatched_fidelity(drawn.base.pictures, drawn.base.captions, drawn.base.unit)
    content = content_scale(base, real, mismatched)
    choice = _Choice.of(drawn, runs, keys, style.metric, scoring) if can_judge else None
    areas: dict[str, Interval] = {}
    differences: list[AreaDifference] = []
    if can_judge and style.is_defined and content.is_defined:
        areas, differences = _areas(scores, runs, keys, (style, content), scoring.seeds)
    ordinary = [way.key for way in ways if way.form == "ordinary"]
    return Curves(
        ways=list(ways),
        style=style,
        content=content,
        variants=by_variant,
        areas=areas,
        area_differences=differences,
        choosing=0 if choice is None else len(choice.choosing),
        judging=0 if choice is None else len(choice.judging),
        best={} if choice is None else choice.best(keys),
        best_ordinary={} if choice is None else choice.best(ordinary),
        now={} if choice is None else choice.best(keys[:1]),
        comparisons=[] if choice is None else choice.compared(keys),
    )


def _areas(
    scores: Mapping[tuple[TrainingRun, str], SetScores],
    runs: Sequence[TrainingRun],
    keys: Sequence[str],
    scales: tuple[Scale, Scale],
    seeds: Floats,
) -> tuple[dict[str, Interval], list[AreaDifference]]:
    """Of each training under each draw, then the mean over trainings, as of a distance."""
    values: dict[str, list[float]] = {}
    draws: dict[str, list[Floats]] = {}
    for run in runs:
        own = [scores[run, key] for key in keys]
        at, under = (
            [
                scale.shares(np.stack([pick(one, scale.metric) for one in own], axis=-1))
                for scale in scales
            ]
            for pick in (_value, _draws)
        )
        values.setdefault(run.variant, []).append(float(area_under(*at)))
        draws.setdefault(run.variant, []).append(area_under(*under))
    means = {name: float(np.mean(each)) for name, each in values.items()}
    over = {name: (seeds * np.stack(each, axis=1)).mean(axis=1) for name, each in draws.items()}
    pairs = [(later, earlier) for earlier, later in combinations(means, 2)]
    adjusted = holm([two_sided_p(over[a] - over[b]) for a, b in pairs]) if pairs else []
    return {name: interval(means[name], over[name]) for name in means}, [
        AreaDifference(a, b, interval(means[a] - means[b], over[a] - over[b]), p)
        for (a, b), p in zip(pairs, adjusted, strict=True)
    ]


def _value(scores: SetScores, metric: str) -> Floats:
    return np.asarray(scores.figures[metric].value)


def _draws(scores: SetScores, metric: str) -> Floats:
    return scores.draws[metric]


@dataclass(frozen=True)
class _Choice:
    """Which way is best for whom, by one half of the captions; and what the other says of it."""

    choosing: Indices
    judging: Indices
    standings: Mapping[str, Mapping[str, Standing]]  # by variant and way, on the choosing captions
    drawn: Drawn
    runs: Sequence[TrainingRun]
    scoring: Scoring
    _judged: dict[tuple[str, str] | None, VariantScores]

    @classmethod
    def of(
        cls,
        drawn: Drawn,
        runs: Sequence[TrainingRun],
        keys: Sequence[str],
        style: str,
        scoring: Scoring,
    ) -> "_Choice | None":
        """None where there are too few captions for that."""
        units = sorted(set(drawn.base.unit.tolist()))
        if len(units) < ENOUGH_TO_CHOOSE:
            return None
        choosing, judging = halves(units, scoring.stream("captions", "that choose"))
        once = np.ones((1, scoring.reference.units))
        seeds = np.ones((1, scoring.seeds.shape[1]))

        def scored(pictures: PictureSet, name: str) -> SetScores:
            return scoring.on(pictures.of_units(choosing), f"{name}, choosing", once)

        base = of_base(scored(drawn.base, BASE))
        standings: dict[str, dict[str, Standing]] = {}
        for variant in dict.fromkeys(run.variant for run in runs):
            own = [run for run in runs if run.variant == variant]
            for key in keys:
                found = over_trainings(
                    [scored(drawn.trainings[run, key], f"{run.name}, {key}") for run in own], seeds
                )
                broken = broken_guardrails(found, base, scoring.real, scoring.guardrails)
                standing = Standing(found.figures[style].value, len(broken))
                standings.setdefault(variant, {})[key] = standing
        return cls(choosing, judging, standings, drawn, runs, scoring, {})

    def best(self, keys: Sequence[str]) -> dict[str, Choice]:
        """By variant, among the ways ``keys``; none where there is no way."""
        return {variant: self._chosen(variant, keys) for variant in self.standings if keys}

    def _way(self, variant: str, keys: Sequence[str]) -> str:
        return chosen({key: self.standings[variant][key] for key in keys})

    def _chosen(self, variant: str, keys: Sequence[str]) -> Choice:
        way, scoring = self._way(variant, keys), self.scoring
        found = self.judged((variant, way))
        broken = broken_guardrails(found, self.judged(None), scoring.real, scoring.guardrails)
        return Choice(way, found.figures, broken)

    def compared(self, keys: Sequence[str]) -> list[Comparison]:
        """Each two variants, the later less the earlier, each in its best way."""
        judged = {name: self.judged((name, self._way(name, keys))) for name in self.standings}
        pairs = [(later, earlier) for earlier, later in combinations(judged, 2)]
        judged[BASE] = self.judged(None)
        return compare(pairs, judged, self.scoring.real, self.scoring.guardrails)

    def judged(self, of: tuple[str, str] | None) -> VariantScores:
        """The scores on the judging captions of a variant in a way, or of the base."""
        if of in self._judged:
            return self._judged[of]
        scoring = self.scoring

        def scored(pictures: PictureSet, name: str) -> SetScores:
            return scoring.on(pictures.of_units(self.judging), f"{name}, judging", scoring.draws)

        if of is None:
            found = of_base(scored(self.drawn.base, BASE))
        else:
            variant, key = of
            own = [run for run in self.runs if run.variant == variant]
            found = over_trainings(
                [scored(self.drawn.trainings[run, key], f"{run.name}, {key}") for run in own],
                scoring.seeds,
            )
        self._judged[of] = found
        return found
