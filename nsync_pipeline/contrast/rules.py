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
The rules from ``safeguarded`` on are neighbours of the method, each with its source.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, nnls
from torch import Tensor
from torch.nn import functional

from nsync_pipeline.contrast.config import Conflict

ABSENT = 1e-8
"""Of ``|g+|``: a gradient this short counts as absent. Relative, as the loss scale is free."""

Vectors = Sequence[Tensor]
Floats = NDArray[np.float64]


def none(positive: Tensor) -> Tensor:
    """``g' = g+``: plain fine-tuning."""
    return positive


def orthogonal(
    positive: Tensor,
    negatives: Vectors,
    strength: float = 1.0,
    conflict: Conflict = "learn_from",
    metric: Tensor | None = None,
) -> Tensor:
    """``g' = g+ - s P_{g-}(g+)``, ``s`` the strength (1 in the paper).

    Where ``<g+, g-> < 0``, removing the projection learns from the negative. With the conflict left
    alone, the projection is on the cone of the negatives: with one, ``max(0, <g+, g->)`` replaces
    ``<g+, g->``. Pushed away, the negatives are taken off there, too: ``|<g+, g->|`` replaces it,
    which for several is ``C_N(g+) - C_{-N}(g+)`` of the cones.

    Above 1, ``s`` is at most ``|g+|^2 / |r|^2``, ``r`` the projection (of pushing away, its first
    part): with one negative ``1 / cos^2``. There ``<g', g+> = 0``; beyond, the step would raise the
    positives' loss.
    """
    on = on_span if conflict == "learn_from" else on_cone
    shared = on(positive, negatives, metric)
    reach = strength
    if strength > 1:
        weights = torch.ones_like(positive) if metric is None else metric
        square, of_shared = ((weights * v * v).sum() for v in (positive, shared))
        reach = min(strength, float(square / of_shared)) if of_shared > 0 else strength
    if conflict == "push_away":
        shared = shared - on_cone(positive, [-negative for negative in negatives], metric)
    return positive - reach * shared


def orthogonal_anchor(
    positive: Tensor,
    negatives: Vectors,
    anchor: Tensor,
    strength: float = 1.0,
    conflict: Conflict = "learn_from",
    metric: Tensor | None = None,
) -> Tensor:
    """``g' = g+ - s P_{g-}(g+) + P_{ga}(g+)``: what the style's pictures share counts more."""
    refined = orthogonal(positive, negatives, strength, conflict, metric)
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


def safeguarded(
    positive: Tensor,
    negatives: Vectors,
    margin: float = 0.0,
    conflict: Conflict = "push_away",
    metric: Tensor | None = None,
) -> Tensor:
    """``g' = g+ - a g-``, ``a = min(1, (1 - m) |g+|^2 / <g+, g->)`` where ``<g+, g-> > 0``.

    So ``<g', g+> >= m |g+|^2``: at least the share ``m``, the margin, of the positives' descent is
    left. Else ``a`` is 1 (pushed away), 0 (left), or ``<g+, g-> / |g-|^2`` (learnt from). ``g-`` is
    the mean of the negatives. ``orthogonal`` is the margin ``1 - cos^2``.

    Source: Diffusion-SDPO (arXiv 2511.03317), whose ``a`` is estimated from predictions; here it is
    that of the gradients themselves.
    """
    negative = torch.stack([*negatives]).mean(dim=0)
    weights = torch.ones_like(positive) if metric is None else metric
    shared, square, of_negative = (
        (weights * a * b).sum()
        for a, b in ((positive, negative), (positive, positive), (negative, negative))
    )
    if shared > ABSENT * (square * of_negative).sqrt():  # less is rounding
        return positive - min(1.0, float((1 - margin) * square / shared)) * negative
    learnt = float(shared / of_negative) if of_negative > 0 else 0.0
    return positive - {"push_away": 1.0, "leave": 0.0, "learn_from": learnt}[conflict] * negative


def preference(
    positive: Tensor,
    negatives: Vectors,
    margin: float | None = None,
    conflict: Conflict = "push_away",
) -> Tensor:
    """``g' = g+ - g-`` of the losses weighted as ``preference_loss`` weighs them: its gradient.

    With a margin, ``safeguarded`` of them.
    """
    if margin is not None:
        return safeguarded(positive, negatives, margin, conflict)
    return positive - torch.stack([*negatives]).mean(dim=0)


def prior_preservation(positive: Tensor, negatives: Vectors, weight: float = 1.0) -> Tensor:
    """``g' = g+ + w g-``, the negatives at the generic prompt that they were drawn for.

    Source: DreamBooth (arXiv 2208.12242), section 3.2.
    """
    return positive + weight * torch.stack([*negatives]).mean(dim=0)


def class_preservation(positive: Tensor, preserved: Tensor, weight: float = 1.0) -> Tensor:
    """``g' = g+ + w gp``, ``gp`` the gradient of ``|e(x_t, cg) - b(x_t, cg)|^2``.

    The positive's own noisy picture at the generic prompt ``cg`` is to be predicted as the frozen
    base ``b`` predicts it; no negatives are read. Known as differential output preservation.
    """
    return positive + weight * preserved


def contrastive_target(positive: Tensor) -> Tensor:
    """``g' = g+`` of ``contrastive_target_loss``: a negative takes part in the target alone."""
    return positive


def slider(positive: Tensor, mirrored: Vectors, weight: float = 1.0) -> Tensor:
    """``g' = g+ + w gm``, ``gm`` the gradient of ``l-(-D)``: the loss at mirrored weights.

    ``D`` is what the LoRA adds to the base's weights, ``l-`` the negatives' loss. As ``gm`` is
    ``-g-(-D)``, the negatives are pushed away from ``D`` by learning them at ``-D``, which is
    bounded. Source: the visual form of Concept Sliders (arXiv 2311.12092).
    """
    return positive + weight * torch.stack([*mirrored]).mean(dim=0)


def negative_aware(positive: Tensor, mirrored: Vectors, weight: float = 1.0) -> Tensor:
    """``g' = g+ + w gm`` of losses whose predictions are moved, or mirrored, about the base's.

    The losses are those of ``mirrored_prediction``. Source: DiffusionNFT (arXiv 2509.16117), with
    reward 1 of the positives and 0 of the negatives, and the base as its old policy.
    """
    return positive + weight * torch.stack([*mirrored]).mean(dim=0)


def differential(positive: Tensor) -> Tensor:
    """``g' = g+(F + S)``, the gradient with respect to ``S`` alone: the LoRA that is shipped.

    ``F = argmin_F E l-(F)`` is a LoRA that learned the negatives before, and is frozen beneath:
    what they explain, ``S`` need not learn. ``l(D)`` is the loss at the base's weights with ``D``
    added. Pictures are drawn with ``S`` alone.

    Source: differential LoRA training, known from DiffSynth-Studio.
    """
    return positive


def preference_loss(margins: Tensor, positives: Tensor, beta: float, supervised: float) -> Tensor:
    """``L = mean_i [-log sigma(-k m_i) + w l+_i]``, ``k = beta / 2``, ``w`` the supervised weight.

    ``m_i = (l+_i - l0+_i) - (l-_i - l0-_i)`` is a pair's margin, ``l0`` the frozen base's loss. Its
    gradient is ``mean_i [(k s_i + w) g+_i - k s_i g-_i]``, ``s_i = sigma(k m_i)``.

    Source: Diffusion-DPO (arXiv 2311.12908) with losses that are means over a latent's numbers; the
    plain loss beside it as public trainers have it.
    """
    return (-functional.logsigmoid(-beta / 2 * margins) + supervised * positives).mean()


FACTOR = 0.2
"""Of automatic beta: ``sigma(k m)`` at a margin of the running size."""


def automatic_beta(size: float, numbers: int) -> float:
    """``beta = 2 ln((1 - f) / f) / size``, ``f`` = ``FACTOR``: pairs of that margin weigh ``f``.

    ``size`` is the running mean of ``|m|``; beta stays within 0.001 and 1 times the ``numbers`` of
    a latent, which is 0.001 and 1 where losses are sums. Source: the automatic beta of
    SimpleTuner's Flow-DPO.
    """
    largest = float(numbers)
    wanted = 2 * math.log((1 - FACTOR) / FACTOR)
    return max(1e-3 * largest, wanted / size) if size * largest > wanted else largest


def running_size(before: float | None, margins: Tensor, decay: float = 0.99) -> float:
    """``d before + (1 - d) mean_i |m_i|``; at first the mean itself."""
    size = float(margins.abs().mean())
    return size if before is None else decay * before + (1 - decay) * size


def contrastive_target_loss(to_own: Tensor, to_other: Tensor, repulsion: float) -> Tensor:
    """``l = |e - y+|^2 - w |e - y-|^2``, of the distances (B,) at the positive's noisy picture.

    ``y-`` is what would be predicted if the negative had been noised by the same noise: the
    regression to ``(y+ - w y-) / (1 - w)``. Source: Contrastive Flow Matching (arXiv 2506.05350),
    with the paired negative in place of another picture of the batch.
    """
    return to_own - repulsion * to_other


def mirrored_prediction(own: Tensor, base: Tensor, beta: float, negative: bool) -> Tensor:
    """``b + beta (e - b)`` of a positive, ``b - beta (e - b)`` of a negative; ``b`` the base's."""
    return base + (-beta if negative else beta) * (own - base)


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
    coefficients = nonnegative_least_squares(units.numpy(), (stretch * vector).numpy())
    return units @ torch.from_numpy(coefficients) / stretch


def nonnegative_least_squares(matrix: Floats, target: Floats) -> Floats:
    """``c >= 0`` with the smallest ``|A c - b|``; ``A`` (m, n), ``b`` (m,) float64.

    scipy's ``nnls`` at times ends elsewhere where a column is orthogonal to ``b`` but for rounding.
    Its answer is taken where it is one (Karush-Kuhn-Tucker); else bounded least squares finds it.
    """
    found: Floats = nnls(matrix, target)[0]
    slope = matrix.T @ (target - matrix @ found)
    rounding = 1e-9 * np.linalg.norm(matrix, axis=0) * np.linalg.norm(target)
    if not ((slope > rounding) | ((found > 0) & (slope < -rounding))).any():
        return found
    bounded: Floats = lsq_linear(matrix, target, (0, np.inf), method="bvls", tol=1e-14).x
    return bounded


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
