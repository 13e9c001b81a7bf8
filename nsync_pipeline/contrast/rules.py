"""Every update rule as a formula over plain vectors: what the contrast computes, on one page.

``g+`` is the gradient of the positives' loss over all trained weights as one vector (d,), ``g-``
that of a negative's, ``ga`` the anchor's, and ``g'`` what the optimizer is to see. ``P_N(a)`` is
the projection of ``a`` on the span of the vectors ``N``; with one vector ``b``,
``P_b(a) = (<a, b> / <b, b>) b``.

A training computes the same from the vectors' inner products (``gram``, ``projection``), with its
estimates as combinations of vectors (``negative_estimate``); the tests hold the two equal.

Source: NSYNC, arXiv 2511.01517 (``orthogonal``); the anchor term as its readers implement it;
``mean`` is the authors' ablation; ``released`` and ``released_mean`` are what their released loop
computes of the two, run as it is. Scopes,
strength, positive part, metric, several negatives and running estimates are this project's own.
"""

from collections.abc import Callable, Sequence

import torch
from scipy.optimize import nnls
from torch import Tensor

ABSENT = 1e-8
"""Of ``|g+|``: a gradient this short counts as absent. Relative, as the loss scale is free."""

Vectors = Sequence[Tensor]


def none(positive: Tensor) -> Tensor:
    """``g' = g+``: plain fine-tuning."""
    return positive


def orthogonal(
    positive: Tensor,
    negatives: Vectors,
    strength: float = 1.0,
    positive_part: bool = False,
    metric: Tensor | None = None,
) -> Tensor:
    """``g' = g+ - s P_{g-}(g+)``, ``s`` the strength (1 in the paper).

    With ``positive_part``, the projection is on the cone of the negatives: only what is shared is
    removed, and a conflict is left alone. With one negative, ``max(0, <g+, g->)`` replaces
    ``<g+, g->``.
    """
    on = on_cone if positive_part else on_span
    return positive - strength * on(positive, negatives, metric)


def orthogonal_anchor(
    positive: Tensor,
    negatives: Vectors,
    anchor: Tensor,
    strength: float = 1.0,
    positive_part: bool = False,
    metric: Tensor | None = None,
) -> Tensor:
    """``g' = g+ - s P_{g-}(g+) + P_{ga}(g+)``: what the style's pictures share counts more."""
    refined = orthogonal(positive, negatives, strength, positive_part, metric)
    return refined + on_span(positive, [anchor], metric)


def mean(positive: Tensor, negatives: Vectors, anchor: Tensor | None = None) -> Tensor:
    """``g' = (g+ + g- [+ ga]) / n``, over the ``n`` branches."""
    branches = [positive, *negatives, *([] if anchor is None else [anchor])]
    return torch.stack(branches).mean(dim=0)


def released(positive: Tensor, negatives: Vectors, anchor: bool = False) -> Tensor:
    """``g' = g+ - P_G(g+) [+ P_{g+}(g+)]`` with ``G = g+ + g-``.

    In the released loop gradients are not set to zero between the branches, and the anchor's term
    projects ``g+`` on itself.
    """
    accumulated = torch.stack([positive, *negatives]).sum(dim=0)
    refined = positive - on_span(positive, [accumulated])
    return refined + positive if anchor else refined


def released_mean(positive: Tensor, negatives: Vectors, anchor: Tensor | None = None) -> Tensor:
    """``g' = (2 g+ + g-) / 2``, with the anchor ``(3 g+ + 2 g- + ga) / 3``.

    The mean of ``g+``, ``g+ + g-`` [and ``g+ + g- + ga``]: in the released loop gradients are not
    set to zero between the branches whose mean it takes.
    """
    branches = [positive, *negatives, *([] if anchor is None else [anchor])]
    return torch.stack(branches).cumsum(dim=0).mean(dim=0)


def on_span(vector: Tensor, directions: Vectors, metric: Tensor | None = None) -> Tensor:
    """``P_D(a) = D c``, ``c`` with the smallest ``|a - D c|``: the orthogonal projection.

    The length is that of ``<a, b> = sum_i m_i a_i b_i``, ``m`` the metric (1 where None).
    """
    stretch, units = _units(vector, directions, metric)
    coefficients: Tensor = torch.linalg.pinv(units, rtol=1e-6) @ (stretch * vector)
    return units @ coefficients / stretch


def on_cone(vector: Tensor, directions: Vectors, metric: Tensor | None = None) -> Tensor:
    """``D c`` with the smallest ``|a - D c|`` among ``c >= 0`` (non-negative least squares)."""
    stretch, units = _units(vector, directions, metric)
    coefficients, _ = nnls(units.numpy(), (stretch * vector).numpy())
    return units @ torch.from_numpy(coefficients) / stretch


def _units(vector: Tensor, directions: Vectors, metric: Tensor | None) -> tuple[Tensor, Tensor]:
    """``sqrt(m)``, in which the metric is Euclidean; there, unit directions (d, n), or zeros."""
    stretch = torch.ones_like(vector) if metric is None else metric.sqrt()
    shortest = ABSENT * vector.norm()
    there = [d / (stretch * d).norm() if d.norm() > shortest else 0 * d for d in directions]
    return stretch, stretch[:, None] * torch.stack(there, dim=1)


def in_scopes(rule: Callable[[Vectors], Tensor], vectors: Vectors, scopes: Vectors) -> Tensor:
    """``g'_s = rule(g+_s, g-_s, ..)``: each scope is refined as vectors of its own.

    A scope is the places (int64) of its numbers in the vectors: all, or those of a block, a module
    or a tensor.
    """
    refined = torch.zeros_like(vectors[0])
    for places in scopes:
        refined[places] = rule([vector[places] for vector in vectors])
    return refined


def running_mean(before: Tensor, negatives: Vectors, step: int, decay: float) -> Tensor:
    """``e_t = (b (1 - b^(t-1)) e_(t-1) + (1 - b) x_t) / (1 - b^t)``, in the place of ``g-``.

    ``x_t`` is the mean of the negatives' directions ``g- / |g-|`` at step ``t`` = 1, 2, ..: a
    running mean of decay ``b``, corrected for its start as Adam's moments are.
    """
    direction = torch.stack([negative / negative.norm() for negative in negatives]).mean(dim=0)
    past = decay * (1 - decay ** (step - 1)) * before
    return (past + (1 - decay) * direction) / (1 - decay**step)


def running_basis(before: Vectors, negatives: Vectors, size: int) -> list[Tensor]:
    """The last ``size`` directions ``g- / |g-|``, this step's included, in the place of ``g-``."""
    return [*before, *(negative / negative.norm() for negative in negatives)][-size:]
