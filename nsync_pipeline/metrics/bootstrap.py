"""95 % intervals by resampling prompts.

Pictures of one prompt are not independent, so the prompt is the unit: a draw takes P prompts with
replacement, which is a row of counts; every statistic is computed under those counts. All sets of
one evaluation see the same draws, so differences between them are paired.
"""

from dataclasses import dataclass

import numpy as np

from nsync_pipeline.metrics.distances import Floats, Indices

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; without ``low`` and ``high`` where it has none."""

    value: float
    low: float | None = None
    high: float | None = None


def prompt_draws(prompts: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each prompt is in each draw: (draws, prompts), every row sums to ``prompts``."""
    counts: Floats = rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=draws).astype(
        np.float64
    )
    return counts


def prompt_means(values: Floats, prompt: Indices, prompts: int) -> Floats:
    """The mean of values (N,) within each prompt: (prompts,), nan where there is none."""
    totals = np.bincount(prompt, weights=values, minlength=prompts)
    counts = np.bincount(prompt, minlength=prompts)
    means: Floats = np.divide(totals, counts, out=np.full(prompts, np.nan), where=counts > 0)
    return means


def mean_under(weights: Floats, means: Floats) -> Floats:
    """The mean over prompts of ``means`` (P,) under each row of weights (D, P): (D,).

    Prompts without pictures (nan) are left out; nan where none of a draw's has any.
    """
    present = np.isfinite(means)
    total = weights[:, present] @ means[present]
    count = weights[:, present].sum(axis=1)
    mean: Floats = np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)
    return mean


def interval(value: float, draws: Floats) -> Interval:
    """``value`` with the percentile interval of its draws (D,); draws that are nan do not count."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Interval(value)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def two_sided_p(differences: Floats) -> float:
    """How likely so one-sided a bootstrap of a difference is if the truth is 0.

    ``2 min(P(d <= 0), P(d >= 0))`` over the draws (D,), one added to each count so that it is never
    0. It is at most 0.05 about when the 95 % percentile interval excludes 0.
    """
    finite = differences[np.isfinite(differences)]
    below, above = int((finite <= 0).sum()), int((finite >= 0).sum())
    return min(1.0, 2.0 * (min(below, above) + 1) / (len(finite) + 1))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment for as many comparisons as there are values, in their order."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.arange(len(p_values), 0, -1) * np.asarray(p_values)[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(scaled, 1.0))
    return [float(value) for value in adjusted]
