"""Timesteps and noise, each from a stream of its own.

A sample's draws depend on the root seed, the branch, the optimizer step and the sample's place in
that step's batch, and on nothing else: not on the micro-batch size, the other branches, or what was
drawn before. So update rules see the same draws, and a resumed training those of an unbroken one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nsync_pipeline.seeding import torch_stream

SHARED = "shared"
"""The name of the draws that the branches of a triplet have in common."""


@dataclass(frozen=True)
class Draws:
    """The random part of a batch."""

    timesteps: Tensor  # (B,) int64 in [0, T)
    noise: Tensor  # (B, C, h, w) float32, standard normal


def draw(
    seed: int,
    branch: str,
    step: int,
    positions: Sequence[int],
    shape: Sequence[int],
    timestep_count: int,
) -> Draws:
    """The draws of ``branch`` (or ``SHARED``) at ``step`` for the samples at ``positions``.

    Timesteps are uniform over ``range(timestep_count)``; ``shape`` is one latent's, (C, h, w).
    """
    timesteps = [
        torch.randint(timestep_count, (), generator=torch_stream(seed, "timestep", branch, step, p))
        for p in positions
    ]
    noise = [
        torch.randn(tuple(shape), generator=torch_stream(seed, "noise", branch, step, p))
        for p in positions
    ]
    return Draws(torch.stack(timesteps), torch.stack(noise))
