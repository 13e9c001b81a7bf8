"""From the scores of single trainings to the figures of a variant.

What differs between two trainings of a variant is chance, just as what differs between two captions
is. So each draw of the bootstrap resamples twice: the training seeds, and under each of them the
captions. A variant's statistic under a draw is the mean over its trainings of their statistics
under the draw's captions, each weighted by how often its seed was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsync_pipeline.metrics.bootstrap import CONFIDENCE, Interval, interval, prompt_draws
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.picture_metrics import binomial_rate
from nsync_pipeline.metrics.scores import SetScores

ENOUGH_TRAININGS = 3
"""From so many on, their spread is measured, and figures are about the method. Fewer say nothing
of it: then the seeds are not resampled, and figures are about these checkpoints."""


@dataclass(frozen=True)
class VariantScores:
    """The figures of a variant over its trainings, or of the base."""

    figures: dict[str, Interval]
    draws: dict[str, Floats]  # (D,) of the metrics that variants are compared by
    trainings: int  # 0 of the base: nobody trained it, so another seed cannot change it


def seed_weights(trainings: int, draws: int, rng: np.random.Generator) -> Floats:
    """How much each training counts in each draw: (draws, trainings), rows sum to ``trainings``.

    With c ~ multinomial the counts of a resampling of S trainings, the weights are 1 + f (c - 1),

        f = sqrt(S / (S - 1)) t(S - 1) / z

    with the 97.5 % quantiles t of Student's and z of the normal distribution. The counts alone
    (f = 1) give an interval that never leaves the range of the S values: of three, it would hold
    the truth in 75 % of cases rather than 95 %. f makes the interval of a pure seed effect as wide
    as Student's.

    Fewer than ``ENOUGH_TRAININGS`` all count once.
    """
    if trainings < ENOUGH_TRAININGS:
        return np.ones((draws, trainings))
    from scipy.stats import norm, t  # only here: it takes a second, and settings import this module

    tail = 1.0 - (1.0 - CONFIDENCE) / 2.0
    widening = np.sqrt(trainings / (trainings - 1))
    widening *= t.ppf(tail, trainings - 1) / norm.ppf(tail)
    weights: Floats = 1.0 + widening * (prompt_draws(trainings, draws, rng) - 1.0)
    return weights


def over_trainings(scores: Sequence[SetScores], weights: Floats) -> VariantScores:
    """The figures of a variant from those of its trainings; ``weights`` are (D, trainings).

    All ``scores`` are under the same draws of captions. A figure is the mean of the trainings'; one
    that some training does not have is left out.
    """
    draws: dict[str, Floats] = {}
    for name in scores[0].draws:
        # (D or fewer, trainings)
        each = np.stack([training.draws[name] for training in scores], axis=1)
        draws[name] = (weights[: len(each)] * each).mean(axis=1)
    figures: dict[str, Interval] = {}
    for name in scores[0].figures:
        if all(name in training.figures for training in scores):
            value = float(np.mean([training.figures[name].value for training in scores]))
            figures[name] = interval(value, draws[name]) if name in draws else Interval(value)
    # Trainings draw the same captions from the same noise, so several are no more pictures: the
    # exact interval is that for the pictures of one. Resampling would call a rate of none certain.
    copies = sum(int(training.pictures.copied.sum()) for training in scores) / len(scores)
    figures["copy_rate"] = binomial_rate(copies, len(scores[0].pictures.copied))
    return VariantScores(figures, draws, len(scores))


def of_base(scores: SetScores) -> VariantScores:
    """The base's figures, to be compared with those of variants."""
    return VariantScores(scores.figures, scores.draws, trainings=0)
