"""Each update rule as a linear combination of a step's vectors.

The vectors are ``v = (g+, negatives.., anchor, kept..)``. In each scope the weights of ``v`` follow
from the vectors' inner products alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nsync_pipeline.contrast.projection import project

ABSENT = 1e-8
"""Of ``|g+|``: a gradient this short counts as absent. Relative, as the loss scale is free."""

ABSENT_ESTIMATE = 1e-6
"""Of 1, near which the length of a running estimate's directions is."""


@dataclass(frozen=True)
class InnerProducts:
    """Of all pairs of a step's vectors, the first of which is ``g+``."""

    plain: Tensor  # (scopes, K, K) float64
    metric: Tensor  # the same, in the inner product of the projections


@dataclass(frozen=True)
class Directions:
    """What is to be projected out."""

    parts: Tensor  # (m, K) float64: each a combination of the vectors
    unit: bool  # each is near the length 1; else of a gradient's length


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


def without_projection(
    products: InnerProducts, directions: Directions, strength: float = 1.0, cone: bool = False
) -> Update:
    """``g' = g+ - strength * (the projection of g+ on the directions' span, or cone)``."""
    parts = directions.parts
    lengths = ((parts @ products.plain) * parts).sum(dim=-1).clamp(min=0.0).sqrt()
    present = lengths > _shortest(products, directions.unit)
    projection = project(
        parts @ products.metric @ parts.T, products.metric[:, 0] @ parts.T, present, cone
    )
    weights = -strength * projection.coefficients @ parts
    weights[:, 0] += 1.0
    return Update(weights, strength * projection.lengths, projection.ranks)


def with_anchor(update: Update, products: InnerProducts, anchor: int) -> Update:
    """``update`` and the projection of ``g+`` on the vector at place ``anchor``."""
    at = slice(anchor, anchor + 1)
    present = products.plain[:, at, anchor].sqrt() > _shortest(products, unit=False)
    projection = project(products.metric[:, at, at], products.metric[:, 0, at], present, cone=False)
    weights = update.weights.clone()
    weights[:, at] += projection.coefficients
    return Update(weights, update.removed, update.ranks)


def _shortest(products: InnerProducts, unit: bool) -> Tensor:
    """The length of a direction above which it is present, (scopes, 1)."""
    positive = products.plain[:, :1, 0]
    if unit:
        return torch.full_like(positive, ABSENT_ESTIMATE)
    return ABSENT * positive.sqrt()
