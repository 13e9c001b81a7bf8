"""Scopes: which trained weights are one vector to a projection.

- ``global``: all of them.
- ``block``: those of one block of a network: the name up to its first number, as in
  ``down_blocks.0``, ``transformer_blocks.3`` or ``text_encoder.text_model.encoder.layers.5``, or up
  to ``mid_block``. A weight outside of any block is in the scope of its module.
- ``module``: those of one adapted module, a LoRA's A and B: the name up to the component that
  starts with ``lora_``. A weight without one, such as an embedding vector, is a module of its own.
- ``tensor``: each for itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nsync_pipeline.contrast.config import Scope

MOST_NUMBERS = 2**18
"""Of a vector, in one piece: all vectors' pieces are held in float64 at a time, near the cache."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the flat vector that lies within one scope."""

    scope: int  # its place among the scopes
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
    """The scope that the weight ``name`` is in."""
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
        pieces += [
            Piece(number, left, min(left + MOST_NUMBERS, end))
            for left in range(start, end, MOST_NUMBERS)
        ]
        start = end
    order = tuple(place for places in members.values() for place in places)
    return Layout(tuple(members), tuple(pieces), order, tuple(shapes))
