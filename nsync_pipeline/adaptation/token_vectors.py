"""A text encoder's token table with vectors of their own for tokens that were added.

The table stays as it is, frozen: the vectors are put in its output where the added tokens stand.
Source: textual inversion, arXiv 2208.01618.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class TokenVectors(nn.Module):
    """Stands in for the table of ``table.num_embeddings`` tokens.

    Args:
        table: of the base.
        first: the number of the first added token; the others follow it.
        start: (k, D), what the vectors start from.
        tokenizer_before: the attributes of the tokenizer from before the tokens were added.
    """

    def __init__(
        self, table: nn.Embedding, first: int, start: Tensor, tokenizer_before: dict[str, Any]
    ) -> None:
        super().__init__()
        self.tokenizer_before = tokenizer_before
        self.table = table
        self.first = first
        self.vectors = nn.Parameter(start)

    @property
    def weight(self) -> Tensor:
        """The base's table: models ask it for their number type and device."""
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        """``ids`` (B, L) to (B, L, D)."""
        return embedded(self.table, self.first, self.vectors.unsqueeze(0), ids)

    def branch_weights(self) -> tuple[nn.Parameter, ...]:
        """What ``branch_forward`` takes copies of."""
        return (self.vectors,)

    def branch_forward(self, copies: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """The forward with copies (n, k, D) of the vectors, for n branches stacked in a batch."""
        return _Branches(self.table, self.first, copies[0])


@dataclass
class _Branches:
    table: nn.Embedding
    first: int
    vectors: Tensor  # (n, k, D)

    def __call__(self, ids: Tensor) -> Tensor:
        return embedded(self.table, self.first, self.vectors, ids)


def embedded(table: nn.Embedding, first: int, vectors: Tensor, ids: Tensor) -> Tensor:
    """``ids`` (n * B, L) to (n * B, L, D); branch i's rows take their vectors from ``vectors[i]``.

    The vectors are put in by a product with 0 and 1: its gradient needs no scattered additions,
    whose order is not fixed on a GPU.
    """
    branches, count, _ = vectors.shape
    added = torch.arange(first, first + count, device=ids.device)
    chosen = ids.unsqueeze(-1) == added  # (n * B, L, k)
    is_added = chosen.any(dim=-1, keepdim=True)
    rows: Tensor = table(ids.masked_fill(is_added.squeeze(-1), 0))
    picked = torch.bmm(chosen.reshape(branches, -1, count).to(vectors.dtype), vectors)
    return torch.where(is_added, picked.view(rows.shape).to(rows.dtype), rows)
