"""Each update rule as a linear combination of a step's vectors, from inner products alone.

The vectors are ``v = (g+, negatives.., anchor, further..)``, each scope's for itself.

With directions ``d_1..d_m``, their inner products ``C_jk = <d_j, d_k>`` and those with the vector,
``h_j = <d_j, g>``, the projection of ``g`` is ``r = sum_j c_j d_j``:

- on the span: ``c`` minimises ``|g - r|^2``, which is ``C c = h`` (least squares);
- on the cone: the same under ``c_j >= 0``. What is left has no positive product with any direction,
  and is orthogonal to ``r`` (Moreau). With one direction: ``c = max(0, h / C)``.

Both take any inner product, as they see nothing else of it.
"""

from dataclasses import dataclass, replace

import torch
from scipy.optimize import nnls
from torch import Tensor

from nsync_pipeline.contrast.rules import ABSENT

ABSENT_ESTIMATE = 1e-6
"""Of 1, near which the length of a running estimate's directions is."""

SMALLEST_EIGENVALUE = 1e-12
"""Of the cosines of the directions, a direction: below it they count as dependent. Two directions
that differ by an angle of 1e-6 do not differ by more than float32 gradients are rounded."""


@dataclass(frozen=True)
class Projection:
    """What is shared with the directions, scope by scope."""

    coefficients: Tensor  # (scopes, m): c
    lengths: Tensor  # (scopes,): |r|
    ranks: Tensor  # (scopes,): the number of independent directions


def project(products: Tensor, with_vector: Tensor, present: Tensor, cone: bool) -> Projection:
    """Project on the directions that are ``present``; one that is not has the coefficient 0.

    Args:
        products: ``C``, (scopes, m, m) float64.
        with_vector: ``h``, (scopes, m) float64.
        present: (scopes, m), whether a direction is more than zero.
        cone: on the cone, not the span.
    """
    lengths = torch.where(present, products.diagonal(dim1=-2, dim2=-1), 1.0).sqrt()
    both = present[:, :, None] & present[:, None, :]
    cosines = torch.where(both, products / lengths[:, :, None] / lengths[:, None, :], 0.0)
    shared = torch.where(present, with_vector / lengths, 0.0)  # h of the unit directions
    values, axes = torch.linalg.eigh(cosines)
    independent = values > SMALLEST_EIGENVALUE * products.shape[-1]
    roots = torch.where(independent, values, 1.0).sqrt()
    along = torch.where(independent, (axes.mT @ shared[:, :, None])[:, :, 0] / roots, 0.0)
    if cone:
        matrices = torch.where(independent, roots, 0.0)[:, :, None] * axes.mT
        units = _nonnegative(matrices, along)
        parts = (matrices @ units[:, :, None])[:, :, 0]
    else:
        units = (axes @ (along / roots)[:, :, None])[:, :, 0]
        parts = along
    return Projection(
        coefficients=torch.where(present, units / lengths, 0.0),
        lengths=parts.square().sum(dim=-1).sqrt(),
        ranks=independent.sum(dim=-1),
    )


def _nonnegative(matrices: Tensor, targets: Tensor) -> Tensor:
    """``c >= 0`` that minimises ``|A c - b|`` for each ``A`` (m, m), ``b`` (m,): (scopes, m)."""
    if matrices.shape[-1] == 1:
        return (matrices[:, :, 0] * targets).clamp(min=0.0)  # A is 1 or 0
    systems = zip(matrices.numpy(), targets.numpy(), strict=True)
    return torch.stack([torch.from_numpy(nnls(matrix, target)[0]) for matrix, target in systems])


@dataclass(frozen=True)
class InnerProducts:
    """Of all pairs of a step's vectors, the first of which is ``g+``."""

    plain: Tensor  # (scopes, K, K) float64
    metric: Tensor  # the same, in the inner product of the projections


@dataclass(frozen=True)
class Update:
    """``g'`` as a combination of the vectors, and what of ``g+`` it lacks."""

    weights: Tensor  # (scopes, K)
    removed: Tensor  # (scopes,): the length of what is removed, in the metric
    ranks: Tensor  # (scopes,): the number of independent directions removed


def averaged(products: InnerProducts, branches: int) -> Update:
    """``g' = (v_1 + .. + v_n) / n``: rule ``mean``; for one branch, ``none``."""
    scopes, count = products.plain.shape[:2]
    weights = torch.zeros(scopes, count, dtype=torch.float64)
    weights[:, :branches] = 1 / branches
    nothing = torch.zeros(scopes, dtype=torch.float64)
    return Update(weights, nothing, nothing)


def accumulated(products: InnerProducts, branches: int) -> Update:
    """``g' = (v_1 + (v_1 + v_2) + .. + (v_1 + .. + v_n)) / n``: ``released`` as a mean."""
    mean = averaged(products, branches)
    sums_with_it = torch.arange(products.plain.shape[1], dtype=torch.float64)
    return replace(mean, weights=mean.weights * (branches - sums_with_it).clamp(min=0.0))


def without_projection(
    products: InnerProducts, directions: Tensor, unit: bool, strength: float, cone: bool
) -> Update:
    """``g' = g+ - strength * (the projection of g+ on the span, or cone, of the directions)``.

    ``directions`` (m, K) float64 are combinations of the vectors, each of a gradient's length, or
    near the length 1 (``unit``).
    """
    lengths = ((directions @ products.plain) * directions).sum(dim=-1).clamp(min=0.0).sqrt()
    projection = project(
        directions @ products.metric @ directions.T,
        products.metric[:, 0] @ directions.T,
        lengths > (ABSENT_ESTIMATE if unit else _shortest(products)),
        cone,
    )
    weights = -strength * projection.coefficients @ directions
    weights[:, 0] += 1.0
    return Update(weights, strength * projection.lengths, projection.ranks)


def with_anchor(update: Update, products: InnerProducts, anchor: int) -> Update:
    """``update`` and the projection of ``g+`` on the vector at place ``anchor``."""
    at = slice(anchor, anchor + 1)
    present = products.plain[:, at, anchor].sqrt() > _shortest(products)
    projection = project(products.metric[:, at, at], products.metric[:, 0, at], present, cone=False)
    weights = update.weights.clone()
    weights[:, at] += projection.coefficients
    return Update(weights, update.removed, update.ranks)


def _shortest(products: InnerProducts) -> Tensor:
    """The length above which a gradient is present, (scopes, 1)."""
    return ABSENT * products.plain[:, :1, 0].sqrt()
