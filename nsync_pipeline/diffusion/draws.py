"""Timesteps and noise, each from a stream of its own.

A sample's draws depend on the root seed, the branch, the optimizer step and the sample's place in
that step's batch, and on nothing else: not on the micro-batch size, the other branches, or what was
drawn before. So update rules see the same draws, and a resumed training those of an unbroken one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nsync_pipeline.diffusion.config import ObjectiveConfig
from nsync_pipeline.seeding import torch_stream

SHARED = "shared"  # the draws that the branches of a triplet have in common


@dataclass(frozen=True)
class Draws:
    """The random part of a batch."""

    entries: Tensor  # (B,) int64 in [0, T): of the schedule, from the least noisy on
    noise: Tensor  # (B, C, h, w) float32, standard normal


def draw(
    seed: int,
    branch: str,
    step: int,
    positions: Sequence[int],
    shape: Sequence[int],  # (C, h, w)
    entry_count: int,
    objective: ObjectiveConfig | None = None,
    noises: Tensor | None = None,
) -> Draws:
    """The draws of ``branch`` (or ``SHARED``) at ``step`` for the samples at ``positions``.

    Entries are drawn as ``objective`` says, uniformly where None; ``shape`` is one latent's.
    ``noises`` (T,) are the schedule's own, which only ``style_friendly`` asks.
    """
    entries = [
        _entry(torch_stream(seed, "timestep", branch, step, p), entry_count, objective, noises)
        for p in positions
    ]
    noise = [
        torch.randn(tuple(shape), generator=torch_stream(seed, "noise", branch, step, p))
        for p in positions
    ]
    return Draws(torch.stack(entries), torch.stack(noise))


def _entry(
    stream: torch.Generator,
    count: int,
    objective: ObjectiveConfig | None,
    noises: Tensor | None,
) -> Tensor:
    """One of ``range(count)``, () int64: ``floor(count * share)`` of a share in [0, 1).

    - uniform: every entry alike;
    - logit_normal: ``share = sigmoid(m + s z)``, ``z`` standard normal;
    - shift: ``share = a u / (1 + (a - 1) u)``, ``u`` uniform, ``a`` the shift;
    - style_friendly, of a straight path: the first entry with at least the noise
      ``sigmoid(3 + z)``, which has a log-SNR of mean -6 and deviation 2.

    ``timestep_min`` and ``timestep_max`` leave out what is below and above these shares of the
    entries; shares are then of those that are left.

    Source of logit_normal and shift: Esser et al., Scaling Rectified Flow Transformers for
    High-Resolution Image Synthesis (arXiv 2403.03206), sections 3.1 and 5.3.2; of style_friendly:
    Choi et al., Style-Friendly SNR Sampler for Style-Driven Generation (arXiv 2411.14793).
    """
    first = 0
    if objective is not None:
        first = min(round(objective.timestep_min * count), count - 1)
        count = max(round(objective.timestep_max * count) - first, 1)
    if objective is None or objective.timestep_sampling == "uniform":
        return first + torch.randint(count, (), generator=stream)
    if objective.timestep_sampling == "style_friendly":
        assert noises is not None
        normal = torch.randn((), generator=stream, dtype=torch.float64)
        # s of the path (1 - s) x + s e, whose log-SNR 2 log((1 - s) / s) is -6 - 2 z
        return torch.searchsorted(noises, torch.sigmoid(3.0 + normal))
    if objective.timestep_sampling == "logit_normal":
        normal = torch.randn((), generator=stream, dtype=torch.float64)
        share = torch.sigmoid(objective.logit_mean + objective.logit_std * normal)
    else:
        uniform = torch.rand((), generator=stream, dtype=torch.float64)
        shift = objective.timestep_shift
        share = shift * uniform / (1.0 + (shift - 1.0) * uniform)
    return first + (share * count).long().clamp(max=count - 1)
