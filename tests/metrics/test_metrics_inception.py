"""FID and KID, against identities and torchmetrics' own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from nsync_pipeline.metrics.distances import (
    frechet_distance,
    mmd_unbiased,
    polynomial_kernel,
    prompt_kernels,
)

RNG = np.random.default_rng(0)


class _AsFeatures(nn.Module):
    """Lets torchmetrics take rows for pictures."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.flatten(1)


@pytest.mark.parametrize("count", [5, 40])
def test_a_scaled_and_shifted_copy_is_at_a_known_frechet_distance(count: int) -> None:
    """``y = a x + c``: ``|(a - 1) m + c|^2 + (1 - a)^2 tr C`` at any n, below d = 8 or above."""
    x = RNG.normal(size=(count, 8)) + 0.5
    a, c = 1.7, RNG.normal(size=8)
    spread = ((x - x.mean(axis=0)) ** 2).sum() / (count - 1)
    expected = (((a - 1) * x.mean(axis=0) + c) ** 2).sum() + (1 - a) ** 2 * spread
    assert frechet_distance(x, a * x + c) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_it_is_symmetric() -> None:
    x, y = RNG.normal(size=(9, 4)), RNG.normal(size=(12, 4)) * 2
    assert frechet_distance(x, x[::-1]) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))


@pytest.mark.parametrize("rows", [(4, 6), (40, 6), (4, 40), (6, 6)])
def test_frechet_distance_is_that_of_the_covariances(rows: tuple[int, int]) -> None:
    """With fewer rows than dimensions (8), and with more."""
    x, y = (RNG.normal(size=(count, 8)) + count for count in rows)
    of_x, of_y = np.cov(x.T), np.cov(y.T)
    eigenvalues = np.linalg.eigvals(of_x @ of_y).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(of_x + of_y)
    expected -= 2 * np.sqrt(np.maximum(eigenvalues, 0)).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_needs_a_covariance() -> None:
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(np.zeros((1, 3)), np.zeros((4, 3)))


def test_frechet_distance_is_torchmetrics() -> None:
    x, y = RNG.normal(size=(60, 6)), RNG.normal(size=(50, 6)) * 1.3 + 0.2
    oracle = FrechetInceptionDistance(
        feature=_AsFeatures(), input_img_size=(6, 1, 1), normalize=True
    ).set_dtype(torch.float64)
    oracle.num_features = 6
    for rows, real in ((x, True), (y, False)):
        oracle.update(torch.from_numpy(rows).view(-1, 6, 1, 1), real=real)
    assert frechet_distance(x, y) == pytest.approx(float(oracle.compute()), rel=1e-6)


def test_kid_over_all_pairs_is_torchmetrics_on_one_subset_of_everything() -> None:
    x, y = RNG.normal(size=(30, 6)), RNG.normal(size=(30, 6)) + 0.3
    oracle = KernelInceptionDistance(
        feature=_AsFeatures(), subsets=1, subset_size=30, normalize=True
    )
    for rows, real in ((x, True), (y, False)):
        oracle.update(torch.from_numpy(rows).float().view(-1, 6, 1, 1), real=real)
    mean, _ = oracle.compute()
    # Of different prompts, so that every pair counts: x's are 0 to 29, y's 30 to 59.
    kernels = prompt_kernels(x, np.arange(30), y, np.arange(30, 60), polynomial_kernel)
    found = mmd_unbiased(kernels, np.ones((1, 60)))[0]
    assert found == pytest.approx(1000.0 * float(mean), rel=1e-4)


def test_the_cubic_kernel_by_hand() -> None:
    """d = 2: ``(1 * 3 + 2 * 4) / 2 + 1 = 6.5``, and its cube."""
    assert polynomial_kernel(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])).item() == 6.5**3
