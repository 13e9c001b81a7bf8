"""Inner products of gradients, scope by scope, in float64; and linear combinations of them.

All that a refinement needs to know of its vectors is their matrix of inner products: a handful of
numbers a scope. So two passes over the gradients are enough, one for these and one for the result,
and a GPU waits for the host once in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from nsync_pipeline.contrast.scopes import Layout

Gradient = Sequence[Tensor]
"""One tensor a trained weight, always in the same order: together one vector."""


@dataclass(frozen=True)
class Combination:
    """A linear combination of vectors."""

    vector: Tensor  # (d,) as the vectors
    norm: float  # before its numbers are rounded to their type


def flat_vector(gradient: Gradient, layout: Layout) -> Tensor:
    """All numbers of ``gradient`` in the order of ``layout``, (d,)."""
    parts = [gradient[place] for place in layout.order]
    vector: Tensor = _flatten_dense_tensors(parts)  # type: ignore[no-untyped-call]
    # MPS has no float64: its numbers go to the CPU.
    return vector.cpu() if vector.device.type == "mps" else vector


def tensors_of(vector: Tensor, layout: Layout, like: Gradient) -> tuple[Tensor, ...]:
    """``vector`` (d,) in the shapes, the number type and the device of ``like``."""
    ordered = [like[place] for place in layout.order]
    parts = _unflatten_dense_tensors(vector.to(like[0]), ordered)  # type: ignore[no-untyped-call]
    by_place = dict(zip(layout.order, parts, strict=True))
    return tuple(by_place[place] for place in range(len(parts)))


def inner_products(
    vectors: Sequence[Tensor], layout: Layout, metric: Tensor | None = None
) -> Tensor:
    """``<a, b> = sum_i m_i a_i b_i`` of all pairs, (scopes, K, K) float64 on the CPU.

    ``metric`` (d,) are the ``m_i``; None: all 1. A number that is not finite makes the products of
    its vector so, in its scope, and no others.
    """
    count = len(vectors)
    device = vectors[0].device
    found = torch.zeros(len(layout.scopes), count, count, dtype=torch.float64, device=device)
    for piece in layout.pieces:
        block = torch.stack([vector[piece.start : piece.end] for vector in vectors]).double()
        weighted = block if metric is None else block * metric[piece.start : piece.end].double()
        found[piece.scope].addmm_(weighted, block.T)
    return found.cpu()


def combined(vectors: Sequence[Tensor], weights: Tensor, layout: Layout) -> Combination:
    """``sum_k w_sk v_k`` in each scope ``s``; ``weights`` are (scopes, K)."""
    first = vectors[0]
    used = [k for k in range(len(vectors)) if bool((weights[:, k] != 0).any())]
    factors = weights[:, used].to(first.device)
    vector = torch.empty_like(first)
    square = torch.zeros((), dtype=torch.float64, device=first.device)
    for piece in layout.pieces:
        block = torch.stack([vectors[k][piece.start : piece.end] for k in used]).double()
        mixed = factors[piece.scope] @ block
        square += mixed.dot(mixed)
        vector[piece.start : piece.end] = mixed
    return Combination(vector, float(square.sqrt()))
