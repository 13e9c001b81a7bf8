"""Does the model repeat its training pictures?

A generated picture counts as a copy when its nearest training picture is nearer than real pictures
of the style are to one another: the threshold is a low quantile of the distances from each real
*test* picture to its nearest training picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from nsync_pipeline.metrics.distances import Floats, Indices, squared_distances


@dataclass(frozen=True)
class Nearest:
    """For each picture its nearest training picture."""

    index: Indices  # (N,) row of the training picture
    distance: Floats  # (N,) Euclidean, between unit features: 0 .. 2


def nearest(features: Floats, train: Floats) -> Nearest:
    """The nearest row of ``train`` (M, d), M >= 1, to each row of ``features`` (N, d)."""
    squared = squared_distances(features, train)
    index = squared.argmin(axis=1)
    distance = np.sqrt(squared[np.arange(len(features)), index])
    return Nearest(index=index.astype(np.int64), distance=distance)


def copy_threshold(test_to_train: Floats, quantile: float) -> float:
    """The ``quantile`` of the real distances (N,), rounded down to one of them.

    Rounded down, at most that share of the real test pictures is strictly nearer than it.
    """
    return float(np.quantile(test_to_train, quantile, method="lower"))


def clopper_pearson(count: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of the rate ``count / total``; a mean count may be no whole."""
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(1.0 - tail, count + 1, total - count))
    return low, high


def worst_first(distances: Sequence[float] | Floats, count: int) -> list[int]:
    """The rows of the ``count`` smallest distances, nearest first; ties in their order."""
    return [int(row) for row in np.argsort(distances, kind="stable")[:count]]
