"""KID: squared MMD with a cubic polynomial kernel (Binkowski et al., arXiv 1801.01401)."""

from nsync_pipeline.metrics.distances import Floats


def polynomial_kernel(x: Floats, y: Floats) -> Floats:
    """``(x_i . y_j / d + 1)^3``, (N, M), of rows x (N, d) and y (M, d), not scaled to unit length.

    The paper takes an Inception network's features. Here the statistic is over all pairs of the two
    sets, not over random subsets, so that it has one value.
    """
    kernel: Floats = (x @ y.T / x.shape[1] + 1.0) ** 3
    return kernel
