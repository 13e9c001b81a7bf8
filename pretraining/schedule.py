"""Learning rates, averaged weights and per-step randomness shared by the four stages."""

import math
import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

WARMUP = 0.03  # share of the steps


def cosine_rate(peak: float, step: int, steps: int) -> float:
    """A short linear warm-up, then half a cosine from `peak` to zero."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of every parameter group, for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def update_average(
    average: Iterable[Tensor], weights: Iterable[Tensor], decay: float, step: int
) -> None:
    """average <- d average + (1 - d) weights; d rises to `decay` over the first steps."""
    now = min(decay, (1 + step) / (10 + step))
    for kept, weight in zip(average, weights, strict=True):
        kept.lerp_(weight.detach().to(kept.dtype), 1 - now)


def step_generator(seed: int, stage: str, step: int) -> np.random.Generator:
    """The randomness of one step: a resumed run draws what an unbroken one would."""
    return np.random.default_rng([seed, zlib.crc32(stage.encode()), step])


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Standard normal values from `rng` as a float32 tensor."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def training_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
