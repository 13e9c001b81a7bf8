"""FID: the Frechet distance between two normal distributions (Heusel et al., arXiv 1706.08500).

It is here for comparison with published figures only. It needs several thousand pictures: below 2 d
of them (d the features' width) it is mostly the sample size that it measures.
"""

import numpy as np

from nsync_pipeline.metrics.distances import Floats


def frechet_distance(x: Floats, y: Floats) -> float:
    """``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`` of the rows of x (N, d) and y (M, d).

    With ``A = (x - m_x) / sqrt(N - 1)`` and ``B`` alike, the covariances are ``A^T A`` and
    ``B^T B``, and the trace of the root is the sum of the singular values of ``A B^T``: exact for
    N < d, too, and no root of a d x d matrix is taken.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("a covariance needs at least two rows")
    means = x.mean(axis=0), y.mean(axis=0)
    a = (x - means[0]) / np.sqrt(len(x) - 1)
    b = (y - means[1]) / np.sqrt(len(y) - 1)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2.0 * root)
