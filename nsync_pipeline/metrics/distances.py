"""Distances between two sets of feature rows: maximum mean discrepancy (MMD) with an RBF kernel.

CMMD is MMD^2 x 1000 at sigma = 10 on unit CLIP features (Jayasumana et al., arXiv 2401.09603). At
that bandwidth the kernel is nearly linear, so CMMD compares means; with the bandwidth set to the
median distance between real pictures MMD sees the spread, too (Gretton et al., JMLR 2012).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

CMMD_SIGMA = 10.0
SCALE = 1000.0


def squared_distances(x: Floats, y: Floats) -> Floats:
    """``|x_i - y_j|^2``, (N, M), of the rows of x (N, d) and y (M, d)."""
    norms = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :]
    distances: Floats = np.maximum(norms - 2.0 * (x @ y.T), 0.0)
    return distances


Kernel = Callable[[Floats, Floats], Floats]
"""Values (N, M) of each pair of rows of x (N, d) and y (M, d)."""


def rbf_kernel(x: Floats, y: Floats, sigma: float) -> Floats:
    """``exp(-|x_i - y_j|^2 / (2 sigma^2))``, (N, M)."""
    kernel: Floats = np.exp(-squared_distances(x, y) / (2.0 * sigma**2))
    return kernel


def rbf(sigma: float) -> Kernel:
    """The RBF kernel at one bandwidth."""
    return partial(rbf_kernel, sigma=sigma)


def median_distance(x: Floats) -> float:
    """The median Euclidean distance over pairs of different rows of x (N, d), N >= 2.

    Exact in bounded memory: the distances are gone through in blocks of ``BLOCK`` values, once for
    each of the digits by which the middle one is found.

    Raises:
        ValueError: fewer than two rows, or half of the pairs are the same point.
    """
    if len(x) < 2:
        raise ValueError("the median distance needs at least two rows")
    pairs = len(x) * (len(x) - 1) // 2
    middle = _ranked(lambda: _pair_blocks(x), ((pairs - 1) // 2, pairs // 2))
    median = float(np.sqrt(middle).mean())
    if median <= 0.0:
        raise ValueError("half of the pairs are the same point: their distance is no bandwidth")
    return median


BLOCK = 1 << 20
"""Distances that are held at once."""
DIGIT = 21
"""Bits: three digits are a float64 that is not negative."""


def _pair_blocks(x: Floats) -> Iterator[Floats]:
    """``|x_i - x_j|^2`` of every pair i < j of rows of x, some rows at a time."""
    rows = max(1, BLOCK // len(x))
    for start in range(0, len(x) - 1, rows):
        block = squared_distances(x[start : start + rows], x[start:])
        yield block[np.triu_indices_from(block, k=1)]


def _ranked(blocks: Callable[[], Iterable[Floats]], ranks: Sequence[int]) -> Floats:
    """The values that have these ranks, from 0 on, among those of all blocks; none is negative.

    Floats that are not negative are ordered as their bits are. So values are counted by their
    highest digit, then those that share the digit of the value with the rank by the next one.
    """
    mask = np.uint64((1 << DIGIT) - 1)
    known = [(0, rank) for rank in ranks]  # the digits known so far, and the rank among those
    for shift in (2 * DIGIT, DIGIT, 0):
        counts = {digits: np.zeros(1 << DIGIT, np.int64) for digits, _ in known}
        for values in blocks():
            bits = values.view(np.uint64)
            for digits, count in counts.items():
                alike = bits[bits >> np.uint64(shift + DIGIT) == digits] >> np.uint64(shift)
                count += np.bincount((alike & mask).astype(np.int64), minlength=1 << DIGIT)
        below = {digits: np.cumsum(count) for digits, count in counts.items()}
        for index, (digits, rank) in enumerate(known):
            digit = int(np.searchsorted(below[digits], rank, side="right"))
            rank -= int(below[digits][digit - 1]) if digit else 0
            known[index] = (digits << DIGIT | digit, rank)
    return np.array([digits for digits, _ in known], dtype=np.uint64).view(np.float64)


@dataclass(frozen=True)
class PairSums:
    """Kernel values summed over the pictures of each pair of *different* prompts.

    ``sums[r, c]`` is the sum of k(x_i, y_j) over pictures i of prompt ``rows[r]`` and j of prompt
    ``columns[c]``; zero where the two are one prompt. Only prompts that have pictures are there.
    """

    sums: Floats  # (R, C)
    rows: Indices  # (R,) prompts, ascending
    columns: Indices  # (C,)
    row_count: Floats  # (R,) pictures a prompt
    column_count: Floats  # (C,)
    everyone: float  # the mean over all pairs, those of one prompt, too
    _known: list[Floats] = field(default_factory=list, repr=False, compare=False)
    """The last draws that were asked for, and what came of them: all sets see the same."""

    def mean(self, weights: Floats) -> Floats:
        """Over pairs of pictures of different prompts, under each row of weights (D, P): (D,).

        nan where fewer than two prompts have weight.
        """
        if self._known and self._known[0] is weights:
            return self._known[1]
        rows, columns = weights[:, self.rows], weights[:, self.columns]
        total = _weighted_sums(rows, self.sums, columns)
        rows, columns = rows * self.row_count, columns * self.column_count
        _, in_rows, in_columns = np.intersect1d(self.rows, self.columns, True, True)
        pairs = rows.sum(axis=1) * columns.sum(axis=1)
        pairs = pairs - (rows[:, in_rows] * columns[:, in_columns]).sum(axis=1)
        mean: Floats = np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)
        if len(weights) > 1:
            self._known[:] = weights, mean
        return mean


def _weighted_sums(rows: Floats, sums: Floats, columns: Floats) -> Floats:
    """``rows_d . sums columns_d`` of each draw d, of rows (D, R), sums (R, C) and columns (D, C).

    Where rows and columns are the same, only the triangle above the diagonal of ``sums + sums^T``
    is gone through, in strips: half of the work.
    """
    if not np.array_equal(rows, columns):
        total: Floats = np.einsum("dc,dc->d", rows @ sums, columns)
        return total
    folded = np.triu(sums + sums.T, k=1)
    np.fill_diagonal(folded, sums.diagonal())
    total = np.zeros(len(rows))
    for start in range(0, len(folded), STRIP):
        strip = slice(start, start + STRIP)
        part = rows[:, strip] @ folded[strip, start:]
        total += np.einsum("dc,dc->d", part, rows[:, start:])
    return total


STRIP = 256


def pair_sums(
    x: Floats, x_prompt: Indices, y: Floats, y_prompt: Indices, kernel: Kernel
) -> PairSums:
    """Sum ``kernel`` of x (N, d) and y (M, d) by prompt."""
    rows, row_count, by_row = _by_prompt(kernel(x, y), x_prompt)
    columns, column_count, by_column = _by_prompt(by_row.T, y_prompt)
    everyone = float(by_column.sum() / (len(x) * len(y)))
    sums = np.where(rows[:, None] == columns, 0.0, by_column.T)
    return PairSums(sums, rows, columns, row_count, column_count, everyone)


def _by_prompt(values: Floats, prompt: Indices) -> tuple[Indices, Floats, Floats]:
    """The prompts of the rows of ``values``, how many rows each has, and the sum of these."""
    order = np.argsort(prompt, kind="stable")
    prompts, starts, counts = np.unique(prompt[order], return_index=True, return_counts=True)
    summed = values[order]
    if len(prompts) < len(prompt):  # else each is its own sum, and this takes long
        summed = np.add.reduceat(summed, starts, axis=0)
    return prompts, counts.astype(np.float64), summed


@dataclass(frozen=True)
class PromptKernels:
    """Within a set x, within a set y, and across them. A real picture's prompt is its caption."""

    xx: PairSums
    yy: PairSums
    xy: PairSums


def prompt_kernels(
    x: Floats, x_prompt: Indices, y: Floats, y_prompt: Indices, kernel: Kernel
) -> PromptKernels:
    """Sum ``kernel`` of x (N, d) and y (M, d) by prompt."""
    return PromptKernels(
        xx=pair_sums(x, x_prompt, x, x_prompt, kernel),
        yy=pair_sums(y, y_prompt, y, y_prompt, kernel),
        xy=pair_sums(x, x_prompt, y, y_prompt, kernel),
    )


def mmd_biased(kernels: PromptKernels) -> float:
    """The V-statistic of MMD^2 x 1000: ``mean k(x,x') + mean k(y,y') - 2 mean k(x,y)``.

    Every pair counts, a row with itself, too: it is at least 0, and positive at small n even for
    two samples of one distribution. At sigma 10 this is CMMD as its paper computes it.
    """
    within = kernels.xx.everyone + kernels.yy.everyone
    return SCALE * (within - 2.0 * kernels.xy.everyone)


def mmd_unbiased(kernels: PromptKernels, weights: Floats) -> Floats:
    """The U-statistic of MMD^2 x 1000 under each row of prompt weights (D, P): (D,).

    Pairs of the same prompt are left out of all three means. So it is about 0 (and may be negative)
    for two samples of one distribution, also where a generated picture and a real one share their
    caption, and a prompt drawn twice in a bootstrap is never compared with itself. nan where fewer
    than two prompts have weight.
    """
    within = kernels.xx.mean(weights) + kernels.yy.mean(weights)
    return SCALE * (within - 2.0 * kernels.xy.mean(weights))


@dataclass(frozen=True)
class HalfSplits:
    """MMD^2 x 1000 between disjoint random parts of one set: what chance alone gives."""

    unbiased: Floats  # (splits,)
    biased: Floats  # (splits,)


def half_splits(
    real: Floats, size: int, kernel: Kernel, splits: int, rng: np.random.Generator
) -> HalfSplits:
    """Compare two disjoint random parts of ``real`` (N, d), ``size`` rows each, ``splits`` times.

    Raises:
        ValueError: ``real`` has fewer than 2 x ``size`` rows, or ``size`` is below 2.
    """
    if size < 2 or len(real) < 2 * size:
        raise ValueError(f"two parts of {size} rows cannot be taken out of {len(real)}")
    values = kernel(real, real)
    first, second = np.zeros((2, splits, len(real)))  # 1 where a row is in the part
    for split in range(splits):
        order = rng.permutation(len(real))[: 2 * size]
        first[split, order[:size]] = second[split, order[size:]] = 1.0
    to_first, to_second = first @ values, second @ values
    sums = (to_first * first).sum(axis=1) + (to_second * second).sum(axis=1)
    across = 2.0 * (to_first * second).sum(axis=1) / size**2
    itself = (first + second) @ values.diagonal()  # the unbiased mean leaves it out
    unbiased = (sums - itself) / (size * (size - 1)) - across
    return HalfSplits(SCALE * unbiased, SCALE * (sums / size**2 - across))


def frechet_distance(x: Floats, y: Floats) -> float:
    """``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`` of the rows of x (N, d) and y (M, d).

    With ``A = (x - m_x) / sqrt(N - 1)`` and ``B`` alike, the covariances are ``A^T A`` and
    ``B^T B``, and the trace of the root is the sum of the singular values of ``A B^T``: exact for
    N < d, too, and no root of a d x d matrix is taken. Of more rows than d, the triangle R of
    ``A = Q R`` stands for A: a rotation of rows changes no singular value.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("a covariance needs at least two rows")
    means = x.mean(axis=0), y.mean(axis=0)
    a = (x - means[0]) / np.sqrt(len(x) - 1)
    b = (y - means[1]) / np.sqrt(len(y) - 1)
    root = np.linalg.svd(_triangle(a) @ _triangle(b).T, compute_uv=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2.0 * root)


def _triangle(rows: Floats) -> Floats:
    """As many rows as dimensions at most, with the same products of columns."""
    if len(rows) <= rows.shape[1]:
        return rows
    return np.asarray(np.linalg.qr(rows, mode="r"), dtype=np.float64)


def polynomial_kernel(x: Floats, y: Floats) -> Floats:
    """``(x_i . y_j / d + 1)^3``, (N, M), of rows x (N, d) and y (M, d), not scaled to unit length.

    The paper takes an Inception network's features. Here the statistic is over all pairs of the two
    sets, not over random subsets, so that it has one value.
    """
    kernel: Floats = (x @ y.T / x.shape[1] + 1.0) ** 3
    return kernel
