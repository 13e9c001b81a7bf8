"""From trials to figures with intervals, and to who is better than whom.

Each draw of the bootstrap resamples twice, as the evaluation's does: the training seeds (widened as
``metrics.trainings.seed_weights`` says) and the prompts. Styles are not resampled: four are no
sample of all there are. Two methods see the same draws, so their difference is paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from benchmarks.evidence.matrix import METHODS, SETS, STYLES, UNSEEN_STYLE
from benchmarks.evidence.results import Result
from nsync_pipeline.metrics.bootstrap import (
    Interval,
    holm,
    interval,
    mean_under,
    prompt_draws,
    two_sided_p,
)
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.trainings import ENOUGH_TRAININGS, seed_weights
from nsync_pipeline.seeding import numpy_stream

DRAWS = 10_000
"""So many that no p is too coarse for all the comparisons of a page (Holm)."""
SIGNIFICANCE = 0.05
MOST_CONTENT_LOST = 0.05
MOST_LEAK_ADDED = 0.05
"""How much worse a method may be in these, and still be better for its style."""

STYLE, CONTENT, LEAK = "style_recognised", "content_recognised", "leak"


@dataclass(frozen=True)
class Trials:
    """All results there are, by style, set, method and seed.

    A method drawn in another way than as it was trained is one of its own here: ``Trial.entry``.
    """

    results: Mapping[tuple[str, str, str], Mapping[int, Result]]

    @classmethod
    def of(cls, results: Sequence[Result]) -> "Trials":
        found: dict[tuple[str, str, str], dict[int, Result]] = {}
        for result in results:
            key = (result.style, result.set, result.trial.entry)
            found.setdefault(key, {})[result.seed] = result
        return cls(found)

    def sets(self) -> list[str]:
        return [name for name in SETS if any(of == name for _, of, _ in self.results)]

    def methods(self, of: str) -> list[str]:
        """Those that have results on the set, in all styles that have any there."""
        order = list(METHODS)
        there = {name for _, found, name in self.results if found == of}
        return sorted(
            (n for n in there if all((s, of, n) in self.results for s in self.styles(of))),
            key=lambda name: (order.index(name.split()[0]), len(name.split())),
        )

    def styles(self, of: str) -> list[str]:
        there = {style for style, found, _ in self.results if found == of}
        return [style for style in (*STYLES, UNSEEN_STYLE) if style in there]

    def seeds(self, of: str, *methods: str) -> dict[str, list[int]]:
        """For each style the seeds that all ``methods`` have."""
        return {
            style: sorted(
                set.intersection(*(set(self.results[style, of, method]) for method in methods))
            )
            for style in self.styles(of)
        }

    def each(self, of: str, method: str) -> list[Result]:
        return [
            result
            for style in self.styles(of)
            for _, result in sorted(self.results[style, of, method].items())
        ]


@dataclass(frozen=True)
class Measure:
    """The mean of one measure over styles, seeds and prompts."""

    value: float
    draws: Floats  # (DRAWS,)

    @property
    def interval(self) -> Interval:
        return interval(self.value, self.draws)

    def minus(self, other: "Measure") -> "Measure":
        return Measure(self.value - other.value, self.draws - other.draws)


def measure(
    trials: Trials, of: str, method: str, name: str, seeds: Mapping[str, Sequence[int]]
) -> Measure | None:
    """The measure ``name`` of ``method`` over the styles and seeds given; None if it has none."""
    values, draws = [], []
    for style, chosen in seeds.items():
        found = [trials.results[style, of, method][seed] for seed in chosen]
        rows = [_values(result, name) for result in found]
        if not rows or any(row is None for row in rows):
            return None
        each = np.array(rows)  # (seeds, prompts)
        count, prompts = each.shape
        of_prompts, of_seeds = _draws(style, of, prompts, count)
        under = np.stack([mean_under(of_prompts, row) for row in each], axis=1)
        values.append(each.mean())
        # What there is once a training varies with its seed alone: of few, nobody knows how much.
        unknown = prompts == 1 and count < ENOUGH_TRAININGS
        draws.append(np.full(DRAWS, np.nan) if unknown else (of_seeds * under).mean(axis=1))
    return Measure(float(np.mean(values)), np.mean(draws, axis=0))


@cache
def _draws(style: str, of: str, prompts: int, seeds: int) -> tuple[Floats, Floats]:
    """How often each prompt (DRAWS, prompts) and each seed (DRAWS, seeds) is in each draw."""
    of_prompts = prompt_draws(prompts, DRAWS, numpy_stream(0, "prompts", style, of, prompts))
    return of_prompts, seed_weights(seeds, DRAWS, numpy_stream(0, "seeds", style, of, seeds))


def _values(result: Result, name: str) -> Sequence[float] | None:
    """A value a prompt; of a figure of the whole set, that one."""
    if name in result.figures and name not in result.pictures:
        return [result.figures[name]]
    return result.pictures.get(name)


Verdict = Literal[
    "better",
    "worse",
    "trade-off",
    "keeps more content",
    "loses content",
    "cannot be told apart",
    "too few trainings",
]


@dataclass(frozen=True)
class Difference:
    """Method ``a`` less method ``b`` on one set, over the seeds that both have."""

    of: str
    a: str
    b: str
    style: Measure
    content: Measure
    leak: Measure | None
    p_style: float  # two-sided, Holm-adjusted over the differences of the page
    p_content: float  # alike
    trainings: int  # of each, over all styles
    fewest: int  # trainings of a style

    @property
    def verdict(self) -> Verdict:
        """Of a: better where its style is significantly more recognised and nothing else lost.

        Where the style tells them apart in no way, what is significantly more of the content may.
        """
        if self.fewest < ENOUGH_TRAININGS:
            return "too few trainings"
        if self.p_style > SIGNIFICANCE:
            if self.p_content > SIGNIFICANCE or abs(self.content.value) <= MOST_CONTENT_LOST:
                return "cannot be told apart"
            return "keeps more content" if self.content.value > 0 else "loses content"
        sign = 1 if self.style.value > 0 else -1
        lost = -sign * self.content.value
        leaked = 0.0 if self.leak is None else sign * self.leak.value
        if lost > MOST_CONTENT_LOST or leaked > MOST_LEAK_ADDED:
            return "trade-off"
        return "better" if sign > 0 else "worse"


def differences(trials: Trials, pairs: Sequence[tuple[str, str, str]]) -> list[Difference]:
    """The differences of ``(set, a, b)``, as one family of comparisons."""
    found = [_difference(trials, *pair) for pair in pairs]
    there = [difference for difference in found if difference is not None]
    of_style = holm([difference.p_style for difference in there])
    of_content = holm([difference.p_content for difference in there])
    return [
        replace(difference, p_style=style, p_content=content)
        for difference, style, content in zip(there, of_style, of_content, strict=True)
    ]


def _difference(trials: Trials, of: str, a: str, b: str) -> Difference | None:
    seeds = trials.seeds(of, a, b)

    def less(name: str) -> Measure | None:
        first, second = (measure(trials, of, method, name, seeds) for method in (a, b))
        return None if first is None or second is None else first.minus(second)

    style, content = less(STYLE), less(CONTENT)
    if style is None or content is None:
        return None
    counts = [len(chosen) for chosen in seeds.values()]
    p_style, p_content = two_sided_p(style.draws), two_sided_p(content.draws)
    return Difference(
        of, a, b, style, content, less(LEAK), p_style, p_content, sum(counts), min(counts)
    )
