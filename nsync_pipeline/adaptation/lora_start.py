"""How LoRA's two factors start, from the layer's own weight or from a random stream.

With the weight ``W`` of a layer, flattened to (out, in), and the layer's scale ``s``:

- ``kaiming``: ``A`` uniform in +-1/sqrt(in), ``B`` zero. PEFT's default.
- ``gaussian``: ``A`` normal with standard deviation 1/rank, ``B`` zero.
- ``orthogonal``: both random, and ``B A = 0``: the rows of an orthogonal matrix are dealt out to
  ``A`` and ``B`` in turn, so the rank is even.
- ``pissa``: the rank largest singular values of ``W`` and their vectors, ``s B A`` being the best
  approximation of ``W`` of that rank (arXiv 2404.02948).
- ``olora``: the first columns of ``Q`` and rows of ``R`` of ``W = Q R`` (arXiv 2406.01775).

The last two are not zero: the layer computes ``W + s (B A - B_0 A_0)``, with what they started from
taken off, so that every start leaves the base as it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraStart


@dataclass(frozen=True)
class Factors:
    """``B A``, of a flattened layer."""

    down: Tensor  # A (rank, in) float32
    up: Tensor  # B (out, rank) float32


def starts_at_zero(start: LoraStart) -> bool:
    """Whether ``B A`` is zero at the start."""
    return start not in ("pissa", "olora")


def random_factors(
    start: LoraStart, outputs: int, inputs: int, rank: int, generator: torch.Generator
) -> Factors:
    """The factors of a start that does not look at the layer's weight: ``B A`` is zero."""
    if start == "orthogonal":
        rows, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator))
        down = torch.randn(inputs, rank // 2, generator=generator) @ rows[0::2] / 10.0
        up = torch.randn(outputs, rank // 2, generator=generator) @ rows[1::2] / 10.0
        return Factors(down.T.contiguous(), up)
    if start == "gaussian":
        down = torch.randn(rank, inputs, generator=generator) / rank
    else:
        bound = 1.0 / math.sqrt(inputs)
        down = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
    return Factors(down, torch.zeros(outputs, rank))


def factors_of(start: LoraStart, weight: Tensor, rank: int, scale: float) -> Factors:
    """The factors of ``pissa`` or ``olora``, of a layer's ``weight`` (out, in), float32.

    Raises:
        ValueError: the layer is too small for the rank.
    """
    outputs, inputs = weight.shape
    if rank > min(outputs, inputs):
        raise ValueError(f"it is {outputs} x {inputs}, too small to start rank {rank} by {start}")
    if start == "pissa":
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        root = (values[:rank] / scale).sqrt()
        return Factors(root[:, None] * right[:rank], left[:, :rank] * root)
    q, r = torch.linalg.qr(weight)
    return Factors(r[:rank].clone(), q[:, :rank].clone())
