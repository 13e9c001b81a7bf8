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

from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.contrast.rules import Branch, UpdateRule, branches_of

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
    optimizer step. All arithmetic is in float64. ``g-`` (or ``ga``) counts as absent where
    ``|g-| <= 1e-8 |g+|``. Non-finite gradients give non-finite norms, which the caller checks.

    Raises:
        ValueError: a branch that the rule needs is missing, or shapes differ between branches.
    """
    branches = branches_of(rule, ContrastConfig())
    missing = [branch for branch in branches if branch not in gradients]
    if missing:
        raise ValueError(f"rule {rule!r} needs the gradient of {', '.join(missing)}")
    shapes = {branch: [tensor.shape for tensor in gradients[branch]] for branch in branches}
    if any(other != shapes["positive"] for other in shapes.values()):
        raise ValueError("the branches' gradients have different shapes")
    vectors = {branch: _vector(gradients[branch]) for branch in branches}
    positive = refined = vectors["positive"]
    norm_positive = _norm(positive)
    negative = anchor = None
    if "negative" in vectors:
        negative = _project(positive, norm_positive, vectors["negative"])
        refined = refined - negative.coefficient * vectors["negative"]
    if "anchor" in vectors:
        anchor = _project(positive, norm_positive, vectors["anchor"])
        refined = refined + anchor.coefficient * vectors["anchor"]
    cosine = None if negative is None else negative.cosine
    diagnostics = Diagnostics(
        norm_positive=norm_positive,
        norm_negative=None if negative is None else negative.norm,
        norm_anchor=None if anchor is None else anchor.norm,
        cosine_negative=cosine,
        cosine_anchor=None if anchor is None else anchor.cosine,
        share_removed=0.0 if cosine is None else abs(cosine),
        norm_refined=_norm(refined),
    )
    return Refinement(_tensors(refined, gradients["positive"]), diagnostics)


def _vector(gradient: Gradient) -> Tensor:
    """All numbers of ``gradient`` in one vector, float64."""
    flat = torch.cat([tensor.flatten() for tensor in gradient])
    # MPS has no float64: its numbers go to the CPU.
    return (flat.cpu() if flat.device.type == "mps" else flat).double()


def _tensors(vector: Tensor, like: Gradient) -> tuple[Tensor, ...]:
    """``vector`` in the shapes, number type and device of ``like``."""
    parts = torch.split(vector.to(like[0]), [tensor.numel() for tensor in like])
    return tuple(part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True))


def _norm(vector: Tensor) -> float:
    return math.sqrt(float(torch.dot(vector, vector)))


def _project(positive: Tensor, norm_positive: float, other: Tensor) -> _Projection:
    norm = _norm(other)
    if norm <= ABSENT * norm_positive or norm_positive == 0.0:
        return _Projection(norm, None, 0.0)
    product = float(torch.dot(positive, other))
    # Rounding may leave |cos| a few units in the last place above 1.
    cosine = max(-1.0, min(1.0, product / (norm_positive * norm)))
    return _Projection(norm, cosine, product / (norm * norm))
