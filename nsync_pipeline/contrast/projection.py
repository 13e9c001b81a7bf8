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
from torch import Tensor

from nsync_pipeline.contrast.config import Conflict
from nsync_pipeline.contrast.rules import ABSENT, nonnegative_least_squares

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
    found = [nonnegative_least_squares(matrix, target) for matrix, target in systems]
    return torch.stack([torch.from_numpy(coefficients) for coefficients in found])


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


def weighted(products: InnerProducts, branches: int, weight: float) -> Update:
    """``g' = v_1 + w (v_2 + .. + v_n) / (n - 1)``."""
    update = averaged(products, 1)
    update.weights[:, 1:branches] = weight / max(1, branches - 1)
    return update


def safeguarded(
    products: InnerProducts, branches: int, margin: float, conflict: Conflict
) -> Update:
    """``g' = v_1 - a v``, ``v`` the mean of ``v_2 .. v_n``; ``rules.safeguarded`` says ``a``.

    Removed counts what the positives' descent loses: ``a <v_1, v> / |v_1|``.
    """
    update = averaged(products, 1)
    mean = torch.zeros(products.metric.shape[-1], dtype=torch.float64)
    mean[1:branches] = 1 / (branches - 1)
    square, shared = products.metric[:, 0, 0], products.metric[:, 0] @ mean
    of_mean = (products.metric @ mean) @ mean
    learnt = torch.where(of_mean > 0, shared / of_mean.clamp(min=1e-300), 0.0)
    else_ = {"push_away": torch.ones_like(shared), "leave": torch.zeros_like(shared)}
    capped = ((1 - margin) * square / shared.clamp(min=1e-300)).clamp(max=1.0)
    some = shared > ABSENT * (square * of_mean).clamp(min=0.0).sqrt()  # less is rounding
    factors = torch.where(some, capped, else_.get(conflict, learnt))
    update.weights[:, 1:branches] = -(factors[:, None] * mean[None, 1:branches])
    lost = torch.where(square > 0, factors * shared.clamp(min=0.0) / square.sqrt(), 0.0)
    return Update(update.weights, lost, update.ranks)


def without_projection(
    products: InnerProducts, directions: Tensor, unit: bool, strength: float, conflict: Conflict
) -> Update:
    """``g' = g+ - s r``, ``r`` the projection of ``g+`` that ``rules.orthogonal`` says.

    ``directions`` (m, K) float64 are combinations of the vectors, each of a gradient's length, or
    near the length 1 (``unit``). Removed counts the projection up to a strength of 1.
    """
    lengths = ((directions @ products.plain) * directions).sum(dim=-1).clamp(min=0.0).sqrt()
    between = directions @ products.metric @ directions.T
    with_positive = products.metric[:, 0] @ directions.T
    present = lengths > (ABSENT_ESTIMATE if unit else _shortest(products))
    projection = project(between, with_positive, present, conflict != "learn_from")
    coefficients = projection.coefficients
    if conflict == "push_away":
        coefficients = coefficients + project(between, -with_positive, present, True).coefficients
    weights = -strength * coefficients @ directions
    if strength > 1:
        shared = projection.lengths.square()
        most = torch.where(
            shared > 0, products.metric[:, 0, 0] / shared.clamp(min=1e-300), strength
        )
        weights = weights * (most.clamp(max=strength) / strength)[:, None]
    weights[:, 0] += 1.0
    return Update(weights, min(strength, 1.0) * projection.lengths, projection.ranks)


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
