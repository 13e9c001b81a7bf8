"""How many different pictures are there: the Vendi score (Friedman and Dieng, arXiv 2210.02410)."""

import numpy as np

from nsync_pipeline.metrics.distances import Floats

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
