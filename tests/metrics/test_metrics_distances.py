import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional import pairwise_euclidean_distance
from torchmetrics.image.kid import maximum_mean_discrepancy

from nsync_pipeline.metrics import distances
from nsync_pipeline.metrics.distances import (
    CMMD_SIGMA,
    PairSums,
    PromptKernels,
    half_splits,
    median_distance,
    mmd_biased,
    mmd_unbiased,
    pair_sums,
    prompt_kernels,
    rbf,
    rbf_kernel,
    squared_distances,
)


def unit_rows(count: int, dimensions: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimensions)) + shift
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def own_prompts(x: np.ndarray, y: np.ndarray, sigma: float) -> PromptKernels:
    """With a prompt of its own for every row."""
    return prompt_kernels(x, np.arange(len(x)), y, len(x) + np.arange(len(y)), rbf(sigma))


def unbiased(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    everyone = np.ones((1, len(x) + len(y)))
    return float(mmd_unbiased(own_prompts(x, y, sigma), everyone)[0])


def biased(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    return mmd_biased(own_prompts(x, y, sigma))


def test_squared_distances_agree_with_torchmetrics() -> None:
    x, y = unit_rows(7, 5, 0), unit_rows(4, 5, 1)
    theirs = pairwise_euclidean_distance(torch.from_numpy(x), torch.from_numpy(y)).numpy() ** 2
    np.testing.assert_allclose(squared_distances(x, y), theirs, atol=1e-9)


def test_cmmd_of_one_picture_each_follows_from_their_angle() -> None:
    """|x - y|^2 = 2 (1 - cos), so MMD^2 = 2 (1 - exp(-2 (1 - cos) / 200)); cos = 0.6 here."""
    x, y = np.array([[1.0, 0.0]]), np.array([[0.6, 0.8]])
    expected = 2000.0 * (1.0 - math.exp(-(1.0 - 0.6) / 100.0))
    assert biased(x, y, CMMD_SIGMA) == pytest.approx(expected, rel=1e-9)


def test_biased_distance_of_a_set_to_itself_is_zero() -> None:
    x = unit_rows(9, 6, 2)
    assert biased(x, x[::-1], 1.0) == pytest.approx(0.0, abs=1e-9)


def test_unbiased_distance_agrees_with_torchmetrics() -> None:
    x, y = unit_rows(12, 6, 3), unit_rows(12, 6, 4, shift=0.3)
    kernels = [torch.from_numpy(rbf_kernel(*pair, 0.7)) for pair in ((x, x), (x, y), (y, y))]
    theirs = 1000.0 * float(maximum_mean_discrepancy(*kernels))
    assert unbiased(x, y, 0.7) == pytest.approx(theirs, rel=1e-9)


def test_unbiased_distance_averages_to_zero_under_the_null() -> None:
    found = [
        unbiased(unit_rows(20, 8, 2 * s), unit_rows(20, 8, 2 * s + 1), 1.0) for s in range(200)
    ]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert np.mean([biased(unit_rows(20, 8, s), unit_rows(20, 8, s + 999), 1.0)
                    for s in range(20)]) > 10 * error  # fmt: skip


def test_pairs_of_the_same_prompt_are_left_out() -> None:
    """Two prompts, one picture each in x and y. What is left is x0x1, y0y1 and x0y1, x1y0."""
    x = np.array([[1.0, 0.0], [0.0, 1.0]])
    y = np.array([[1.0, 0.0], [0.6, 0.8]])
    kernels = prompt_kernels(x, np.array([0, 1]), y, np.array([0, 1]), rbf(1.0))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-(1.0 - float(a @ b)))

    expected = k(x[0], x[1]) + k(y[0], y[1]) - 2 * (k(x[0], y[1]) + k(x[1], y[0])) / 2
    found = mmd_unbiased(kernels, np.ones((1, 2)))[0]
    assert found == pytest.approx(1000.0 * expected, rel=1e-9)


def test_pictures_paired_by_prompt_do_not_bias_the_distance() -> None:
    """Each generated row is a real row and its own noise: one distribution, dependent pairs."""
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(15, 6))
        x, y = (shared + 0.5 * rng.normal(size=(15, 6)) for _ in range(2))
        kernels = prompt_kernels(x, np.arange(15), y, np.arange(15), rbf(2.0))
        found.append(mmd_unbiased(kernels, np.ones((1, 15)))[0])
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found))


def test_a_prompt_counted_twice_equals_a_prompt_with_its_pictures_twice() -> None:
    x, y = unit_rows(4, 3, 5), unit_rows(4, 3, 6)
    own = np.arange(4)
    weighted = mmd_unbiased(prompt_kernels(x, own, y, own, rbf(1.0)), np.array([[2.0, 1, 1, 1]]))
    twice = np.array([0, 0, 1, 2, 3])
    repeated = mmd_unbiased(
        prompt_kernels(x[twice], twice, y[twice], twice, rbf(1.0)), np.ones((1, 4))
    )
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-9)


def test_order_of_rows_does_not_matter() -> None:
    x, y = unit_rows(6, 3, 7), unit_rows(6, 3, 8)
    prompts, order = np.arange(6), np.random.default_rng(0).permutation(6)
    straight = mmd_unbiased(prompt_kernels(x, prompts, y, prompts, rbf(1.0)), np.ones((1, 6)))
    shuffled = mmd_unbiased(
        prompt_kernels(x[order], prompts[order], y, prompts, rbf(1.0)), np.ones((1, 6))
    )
    assert straight[0] == pytest.approx(shuffled[0], rel=1e-9)


def test_one_prompt_alone_has_no_unbiased_distance() -> None:
    x = unit_rows(2, 3, 9)
    same = np.zeros(2, dtype=np.int64)
    kernels = prompt_kernels(x, same, x, same, rbf(1.0))
    assert np.isnan(mmd_unbiased(kernels, np.ones((1, 1)))[0])


def test_median_distance_is_that_of_different_pairs() -> None:
    """Points 0, 3 and 4 on a line are 3, 4 and 1 apart."""
    assert median_distance(np.array([[0.0], [3.0], [4.0]])) == pytest.approx(3.0)


def test_median_distance_of_one_repeated_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="same point"):
        median_distance(np.ones((5, 2)))


def test_median_bandwidth_sees_a_spread_that_cmmd_does_not_see() -> None:
    """Two sets of one mean, one three times as wide: beyond chance only at the median bandwidth."""
    rng = np.random.default_rng(0)
    narrow, wide = (width * rng.normal(size=(100, 4)) for width in (0.2, 0.6))
    median = median_distance(wide)
    chance = {
        sigma: half_splits(wide, 50, rbf(sigma), 100, np.random.default_rng(1)).unbiased.max()
        for sigma in (median, CMMD_SIGMA)
    }
    assert unbiased(narrow, wide, median) > chance[median]
    assert unbiased(narrow, wide, CMMD_SIGMA) < chance[CMMD_SIGMA]


def test_half_splits_agree_with_the_two_estimators() -> None:
    real = unit_rows(10, 4, 11)
    splits = half_splits(real, 5, rbf(1.0), 3, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    for split in range(3):
        order = rng.permutation(10)
        first, second = real[order[:5]], real[order[5:]]
        assert splits.unbiased[split] == pytest.approx(unbiased(first, second, 1.0), rel=1e-9)
        assert splits.biased[split] == pytest.approx(biased(first, second, 1.0), rel=1e-9)


def test_half_splits_leave_out_each_row_with_itself_whatever_its_kernel() -> None:
    """Two rows a part, 1 and 2 against 4 and 8, kernel x y: 1 x 2 + 4 x 8 - 2 x 1.5 x 6 = 16.

    Split the other two ways: 4 + 16 - 2 x 2.5 x 5 = -5, and 8 + 8 - 2 x 4.5 x 3 = -11.
    """
    real = np.array([[1.0], [2.0], [4.0], [8.0]])
    splits = half_splits(real, 2, lambda x, y: x @ y.T, 40, np.random.default_rng(0))
    assert {round(value / 1000.0, 6) for value in splits.unbiased} == {16.0, -5.0, -11.0}


def test_half_splits_refuse_more_than_half() -> None:
    with pytest.raises(ValueError, match="cannot be taken"):
        half_splits(unit_rows(9, 4, 12), 5, rbf(1.0), 3, np.random.default_rng(0))


def plain_median(x: np.ndarray) -> float:
    """Of all distances at once."""
    differences = x[:, None, :] - x[None, :, :]
    distances = np.sqrt((differences**2).sum(axis=2))
    return float(np.median(distances[np.triu_indices(len(x), k=1)]))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 60, 301])
@pytest.mark.parametrize("block", [1, 97, 1 << 20])
def test_median_distance_in_blocks_is_the_plain_formula(
    count: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an odd and of an even number of pairs; blocks of a row, of several, of all."""
    monkeypatch.setattr(distances, "BLOCK", block)
    x = unit_rows(count, 6, count)
    assert median_distance(x) == pytest.approx(plain_median(x), rel=1e-12)


@given(
    rows=st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=2, max_size=12),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
)
@settings(deadline=None)
def test_median_distance_of_ties_is_the_plain_formula(rows: list[list[int]], scale: float) -> None:
    x = np.array(rows, dtype=np.float64)
    expected = plain_median(x) * scale
    if expected == 0.0:
        with pytest.raises(ValueError, match="same point"):
            median_distance(x * scale)
    else:
        assert median_distance(x * scale) == pytest.approx(expected, rel=1e-12)


def test_median_distance_needs_little_memory_beside_the_rows() -> None:
    """Of 4,000 rows all distances at once are 128 MB; a block of them is 8 MB."""
    x = unit_rows(4000, 8, 0)
    tracemalloc.start()
    try:
        median_distance(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * 2**20


@given(
    x_prompt=arrays(np.int64, st.integers(1, 9), elements=st.integers(0, 5)),
    y_prompt=arrays(np.int64, st.integers(1, 9), elements=st.integers(0, 5)),
    seed=st.integers(0, 99),
)
def test_means_over_pairs_are_those_of_every_pair_of_pictures_counted(
    x_prompt: np.ndarray, y_prompt: np.ndarray, seed: int
) -> None:
    """A pair counts as often as its two prompts were drawn; one of the same prompt never."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(len(x_prompt), 3)), rng.normal(size=(len(y_prompt), 3))
    weights = rng.integers(0, 3, size=(4, 6)).astype(float)
    found = pair_sums(x, x_prompt, y, y_prompt, rbf(1.0)).mean(weights)
    kernel = rbf_kernel(x, y, 1.0) * (x_prompt[:, None] != y_prompt)
    for draw, mean in zip(weights, found, strict=True):
        counts = np.outer(draw[x_prompt], draw[y_prompt]) * (x_prompt[:, None] != y_prompt)
        if counts.sum() == 0:
            assert np.isnan(mean)
        else:
            assert mean == pytest.approx((counts * kernel).sum() / counts.sum(), abs=1e-12)


def plain_mean(sums: PairSums, weights: np.ndarray) -> np.ndarray:
    """Every pair of prompts by itself, whether or not rows and columns are the same."""
    rows, columns = weights[:, sums.rows], weights[:, sums.columns]
    total = ((rows @ sums.sums) * columns).sum(axis=1)
    pairs = (
        (rows * sums.row_count) @ (sums.rows[:, None] != sums.columns) @ np.diag(sums.column_count)
    )
    return np.asarray(total / (pairs * columns).sum(axis=1))


@given(
    count=st.integers(2, 40),
    each=st.integers(1, 3),
    same=st.booleans(),
    strip=st.sampled_from([1, 7, 256]),
    seed=st.integers(0, 99),
)
def test_half_of_the_pairs_say_what_all_do(
    count: int, each: int, same: bool, strip: int, seed: int
) -> None:
    """Also of a kernel that is not symmetric, and with several pictures a prompt."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(each * count, 4)), rng.normal(size=(each * count, 4))
    x_prompt = rng.permutation(np.repeat(np.arange(count), each))
    y_prompt = x_prompt if same else rng.integers(0, count + 3, each * count)
    sums = pair_sums(x, x_prompt, y, y_prompt, lambda a, b: np.exp(a @ b[:, ::-1].T / 9))
    weights = rng.integers(1, 4, size=(5, count + 3)).astype(np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "STRIP", strip)
        np.testing.assert_allclose(sums.mean(weights), plain_mean(sums, weights), rtol=1e-12)
    assert sums.everyone == pytest.approx(np.exp(x @ y[:, ::-1].T / 9).mean(), rel=1e-12)


def test_a_second_question_under_other_draws_is_answered_anew() -> None:
    """What is the same for all sets is kept by the draws it was asked under."""
    x, own = unit_rows(5, 3, 1), np.arange(5)
    sums = pair_sums(x, own, x, own, rbf(1.0))
    first, second = np.ones((2, 5)), np.eye(5)[:2] + 1.0
    kept = sums.mean(first)
    assert sums.mean(first) is kept
    assert sums.mean(second) == pytest.approx(pair_sums(x, own, x, own, rbf(1.0)).mean(second))
    assert not np.allclose(sums.mean(second), kept)
