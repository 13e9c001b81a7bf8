"""Gradients as flat vectors, and their inner products scope by scope, in float64.

All that a refinement needs to know of its vectors is their matrix of inner products: a handful of
numbers a scope. So two passes over the gradients are enough, one for these and one for the result,
and a GPU waits for the host once in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from nsync_pipeline.contrast.config import Scope

Gradient = Sequence[Tensor]
"""One tensor a trained weight, always in the same order: together one vector."""

MOST_NUMBERS = 2**18
"""Of a vector, in one piece: all vectors' pieces are held in float64 at a time, near the cache."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the flat vector within the scope of this place."""

    scope: int
    start: int
    end: int


@dataclass(frozen=True)
class Layout:
    """The trained weights as one flat vector in which every scope is one stretch."""

    scopes: tuple[str, ...]
    pieces: tuple[Piece, ...]
    order: tuple[int, ...]  # the place of each weight among the trained ones, as they follow
    shapes: tuple[torch.Size, ...]  # of the trained weights, in their own order

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return sum(shape.numel() for shape in self.shapes)


def scope_of(name: str, scope: Scope) -> str:
    """The scope that the weight ``name`` is in: the weights of one scope are one vector.

    - ``global``: all of them.
    - ``block``: the name up to its first number, as in ``down_blocks.0``, ``transformer_blocks.3``
      or ``text_encoder.text_model.encoder.layers.5``, or up to ``mid_block``. A weight outside of
      any block is in the scope of its module.
    - ``module``: the name up to the component that starts with ``lora_``, so that a LoRA's A and B
      are one. A weight without one, such as an embedding vector, is a module of its own.
    - ``tensor``: each for itself.
    """
    if scope == "global":
        return ""
    if scope == "tensor":
        return name
    components = name.split(".")
    if scope == "block":
        for place, component in enumerate(components):
            if component.isdigit() or component == "mid_block":
                return ".".join(components[: place + 1])
    for place, component in enumerate(components):
        if component.startswith("lora_"):
            return ".".join(components[:place])
    return name


def layout_of(names: Sequence[str], shapes: Sequence[torch.Size], scope: Scope) -> Layout:
    """The layout of the weights ``names``: scopes in the order of their first weights."""
    members: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        members.setdefault(scope_of(name, scope), []).append(place)
    pieces: list[Piece] = []
    start = 0
    for number, places in enumerate(members.values()):
        end = start + sum(shapes[place].numel() for place in places)
        cuts = [*range(start, end, MOST_NUMBERS), end]
        pieces += [Piece(number, left, right) for left, right in pairwise(cuts)]
        start = end
    order = tuple(place for places in members.values() for place in places)
    return Layout(tuple(members), tuple(pieces), order, tuple(shapes))


def flat_vector(gradient: Gradient, layout: Layout) -> Tensor:
    """All numbers of ``gradient`` in the order of ``layout``, (d,)."""
    parts = [gradient[place] for place in layout.order]
    vector: Tensor = _flatten_dense_tensors(parts)  # type: ignore[no-untyped-call]
    # MPS has no float64: its numbers go to the CPU.
    return vector.cpu() if vector.device.type == "mps" else vector


def tensors_of(vector: Tensor, layout: Layout, like: Gradient) -> tuple[Tensor, ...]:
    """``vector`` (d,) in the shapes, the number types and the device of ``like``."""
    ordered = [like[place] for place in layout.order]
    parts = _unflatten_dense_tensors(vector.to(like[0].device), ordered)  # type: ignore[no-untyped-call]
    by_place = dict(zip(layout.order, parts, strict=True))
    return tuple(by_place[place].to(tensor.dtype) for place, tensor in enumerate(like))


def inner_products(
    vectors: Sequence[Tensor], layout: Layout, metric: Tensor | None = None
) -> Tensor:
    """``<a, b> = sum_i m_i a_i b_i`` of all pairs, (scopes, K, K) float64 on the CPU.

    ``metric`` (d,) are the ``m_i``; None: all 1. A number that is not finite makes the products of
    its vector so, in its scope, and no others.
    """
    shape = (len(layout.scopes), len(vectors), len(vectors))
    found = torch.zeros(shape, dtype=torch.float64, device=vectors[0].device)
    for piece in layout.pieces:
        block = torch.stack([vector[piece.start : piece.end] for vector in vectors]).double()
        weighted = block if metric is None else block * metric[piece.start : piece.end].double()
        found[piece.scope].addmm_(weighted, block.T)
    return found.cpu()


def combined(vectors: Sequence[Tensor], weights: Tensor, layout: Layout) -> tuple[Tensor, float]:
    """``sum_k w_sk v_k`` in each scope ``s``, (d,); ``weights`` are (scopes, K).

    Also its length, before its numbers are rounded to the vectors' type.
    """
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
    return vector, float(square.sqrt())
