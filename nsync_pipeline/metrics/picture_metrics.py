"""Does a picture look like the style: cosine to the style's prototype, and the margin over others.

After CSD (Somepalli et al., arXiv 2404.01292): a style is known by the mean of its pictures'
features. The cosine alone is high for anything alike in content; the margin asks whether a picture
is nearer to the target than to every other style at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.distances import Floats, Indices, squared_distances


def prototype(features: Floats) -> Floats:
    """The mean of unit rows (N, d), scaled to unit length: (d,).

    Raises:
        ValueError: there are no rows, or they cancel out.
    """
    if not len(features):
        raise ValueError("a prototype needs at least one picture")
    mean = features.mean(axis=0)
    norm = float(np.linalg.norm(mean))
    if norm < 1e-12:
        raise ValueError("the features cancel out: they have no mean direction")
    unit: Floats = mean / norm
    return unit


@dataclass(frozen=True)
class StyleScores:
    """One value a picture."""

    cosine: Floats  # (N,) to the target's prototype
    margin: Floats  # (N,) that cosine less the best other prototype's
    rival: Indices  # (N,) which other prototype was the best


def style_scores(features: Floats, target: Floats, others: Floats) -> StyleScores:
    """Score unit rows (N, d) against the target (d,) and the other prototypes (K, d), K >= 1."""
    cosine = features @ target
    to_others = features @ others.T
    rival = to_others.argmax(axis=1)
    margin = cosine - to_others[np.arange(len(features)), rival]
    return StyleScores(cosine=cosine, margin=margin, rival=rival.astype(np.int64))


def prompt_fidelity(pictures: Floats, captions: Floats) -> Floats:
    """``100 cos(picture_i, caption_i)`` of unit rows (N, d) each: (N,).

    The captions are content only: with the style's phrase in the prompt a picture would be rewarded
    for its style a second time, or for a placeholder the text encoder never saw.

    Raises:
        ValueError: the two do not pair up.
    """
    if pictures.shape != captions.shape:
        raise ValueError(f"pictures {pictures.shape} and captions {captions.shape} do not pair up")
    cosine: Floats = 100.0 * (pictures * captions).sum(axis=1)
    return cosine


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
    from scipy.stats import beta  # only here: it takes a second, and settings import this module

    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(beta.ppf(1.0 - tail, count + 1, total - count))
    return low, high


def binomial_rate(count: float, total: int) -> Interval:
    """The rate ``count / total`` with its exact interval."""
    return Interval(count / total, *clopper_pearson(count, total))


def worst_first(distances: Sequence[float] | Floats, count: int) -> list[int]:
    """The rows of the ``count`` smallest distances, nearest first; ties in their order."""
    return [int(row) for row in np.argsort(distances, kind="stable")[:count]]


SUBSAMPLES = 20


def vendi_score(features: Floats, weights: Floats | None = None) -> float:
    """``exp(-sum_i l_i ln l_i)`` over the eigenvalues l of ``K / n``, K the cosines of unit rows.

    It is 1 when all rows are the same and n when all are orthogonal; twice the same set has the
    same score. ``weights`` (N,) count a row that many times.
    """
    counts = np.ones(len(features)) if weights is None else weights
    rows = features * np.sqrt(counts / counts.sum())[:, None]
    # The Gram and the covariance matrix share their non-zero eigenvalues: take the smaller one.
    matrix = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    eigenvalues = np.linalg.eigvalsh(matrix)
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def vendi_at(features: Floats, size: int, rng: np.random.Generator) -> float:
    """The Vendi score at ``size`` rows: the mean over random subsets where there are more.

    The score grows with n, so two sets are compared at equal n only.
    """
    if len(features) == size:
        return vendi_score(features)
    scores = [
        vendi_score(features[np.sort(rng.permutation(len(features))[:size])])
        for _ in range(SUBSAMPLES)
    ]
    return float(np.mean(scores))
