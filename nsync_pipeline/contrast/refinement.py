"""The update rules: from the branches' gradients to the one the optimizer sees.

With ``proj_b(a) = (a.b / b.b) b`` over the whole trainable vector:

- ``none``: ``g' = g+``
- ``orthogonal``: ``g' = g+ - proj_{g-}(g+)``
- ``orthogonal_anchor``: ``g' = g+ - proj_{g-}(g+) + proj_{ga}(g+)``

Source: NSYNC, arXiv 2511.01517; the anchor term as its readers implement it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nsync_pipeline.contrast.rules import BRANCHES, Branch, UpdateRule

Gradient = Sequence[Tensor]
"""One tensor a trainable weight, always in the same order: together one vector."""

ABSENT = 1e-8
"""Of ``|g+|``: a gradient this short counts as absent. Relative, as the loss scale is free."""


@dataclass(frozen=True)
class Diagnostics:
    """What a refinement did; None where a branch is not there or a cosine is not defined."""

    norm_positive: float  # |g+|
    norm_negative: float | None  # |g-|
    norm_anchor: float | None  # |ga|
    cosine_negative: float | None  # cos(g+, g-)
    cosine_anchor: float | None  # cos(g+, ga)
    share_removed: float  # |proj_{g-}(g+)| / |g+|, in [0, 1]
    norm_refined: float  # |g'|


@dataclass(frozen=True)
class Refinement:
    """The gradient to step along."""

    gradient: tuple[Tensor, ...]  # each of its weight's shape
    diagnostics: Diagnostics


@dataclass(frozen=True)
class _Projection:
    """How ``g+`` lies to another gradient ``b``."""

    norm: float  # |b|
    cosine: float | None  # cos(g+, b); None where one of them is absent
    coefficient: float  # a.b / b.b; 0 where b is absent


def refine(rule: UpdateRule, gradients: Mapping[Branch, Gradient]) -> Refinement:
    """Refine the positive gradient by ``rule`` (the equations are above).

    ``gradients`` are already averaged over micro-batches and ranks: a refinement is done once an
    optimizer step. Dot products are summed in float64. ``g-`` (or ``ga``) counts as absent where
    ``|g-| <= 1e-8 |g+|``. Non-finite gradients give non-finite norms, which the caller checks.

    Raises:
        ValueError: a branch that the rule needs is missing, or shapes differ between branches.
    """
    missing = [branch for branch in BRANCHES[rule] if branch not in gradients]
    if missing:
        raise ValueError(f"rule {rule!r} needs the gradient of {', '.join(missing)}")
    positive = gradients["positive"]
    norm_positive = math.sqrt(dot(positive, positive))
    negative = anchor = None
    refined = tuple(positive)
    if rule in ("orthogonal", "orthogonal_anchor"):
        negative = _project(positive, norm_positive, gradients["negative"])
        refined = _plus(refined, -negative.coefficient, gradients["negative"])
    if rule == "orthogonal_anchor":
        anchor = _project(positive, norm_positive, gradients["anchor"])
        refined = _plus(refined, anchor.coefficient, gradients["anchor"])
    cosine = None if negative is None else negative.cosine
    diagnostics = Diagnostics(
        norm_positive=norm_positive,
        norm_negative=None if negative is None else negative.norm,
        norm_anchor=None if anchor is None else anchor.norm,
        cosine_negative=cosine,
        cosine_anchor=None if anchor is None else anchor.cosine,
        share_removed=0.0 if cosine is None else abs(cosine),
        norm_refined=norm_positive if rule == "none" else math.sqrt(dot(refined, refined)),
    )
    return Refinement(refined, diagnostics)


def dot(a: Gradient, b: Gradient) -> float:
    """``a.b`` over all tensors, summed in float64.

    Raises:
        ValueError: ``a`` and ``b`` do not have the same shapes.
    """
    if [t.shape for t in a] != [t.shape for t in b]:
        raise ValueError("the branches' gradients have different shapes")
    parts = [torch.dot(_float64(x), _float64(y)) for x, y in zip(a, b, strict=True)]
    return float(torch.stack(parts).sum())


def _float64(tensor: Tensor) -> Tensor:
    # MPS has no float64: there the sums are done on the CPU.
    host = tensor.cpu() if tensor.device.type == "mps" else tensor
    return host.flatten().double()


def _project(positive: Gradient, norm_positive: float, other: Gradient) -> _Projection:
    norm = math.sqrt(dot(other, other))
    if norm <= ABSENT * norm_positive or norm_positive == 0.0:
        return _Projection(norm, None, 0.0)
    product = dot(positive, other)
    cosine = product / (norm_positive * norm)
    # Rounding may leave |cos| a few units in the last place above 1.
    return _Projection(norm, max(-1.0, min(1.0, cosine)), product / (norm * norm))


def _plus(gradient: tuple[Tensor, ...], factor: float, other: Gradient) -> tuple[Tensor, ...]:
    """``gradient + factor * other``; unchanged where the factor is 0."""
    if factor == 0.0:
        return gradient
    return tuple(g.add(o, alpha=factor) for g, o in zip(gradient, other, strict=True))
