"""A denoiser that begins where one with a level less ended.

The new level is the outermost one, of twice as many pixels; what lies inside it saw the same scenes
at the same size, so its weights are kept. What has no counterpart starts at random.
"""

import re

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

_STEPS = 1000
_DAMPING = 1.0
_LEVEL = re.compile(r"^down_blocks\.(\d+)\.")
_OWN = ("conv_in.", "conv_out.", "conv_norm_out.", "time_embedding.linear_1.")


def grow(unet: UNet2DConditionModel, earlier: UNet2DConditionModel) -> None:
    """Copy the weights of ``earlier`` into ``unet``, which has one level more, in place.

    Where shapes differ, what both have is copied.
    """
    outermost = f"up_blocks.{len(unet.config.up_block_types) - 1}."
    old = earlier.state_dict()
    with torch.no_grad():
        for name, weight in unet.state_dict().items():
            if name.startswith((*_OWN, outermost)):
                continue
            level = _LEVEL.match(name)
            if level:
                name = _LEVEL.sub(f"down_blocks.{int(level[1]) - 1}.", name)
            if name in old and old[name].ndim == weight.ndim:
                both = tuple(
                    slice(min(sides)) for sides in zip(weight.shape, old[name].shape, strict=True)
                )
                weight[both] = old[name][both]
        _fit_time(unet, earlier)


def _fit_time(unet: UNet2DConditionModel, earlier: UNet2DConditionModel) -> None:
    """The first layer of the time's embedding: what it said of each step it says again."""
    was, now = earlier.time_embedding.linear_1, unet.time_embedding.linear_1
    said = was(_waves(was.in_features))  # (1000, d)
    waves = torch.cat([_waves(now.in_features), torch.ones(_STEPS, 1)], dim=1)
    waves, said = waves.double(), said.double()
    # Damped: slow waves are nearly alike, and weights that tell them apart overflow in float16.
    damped = waves.T @ waves + _DAMPING * torch.eye(waves.shape[1], dtype=waves.dtype)
    solution: Tensor = torch.linalg.solve(damped, waves.T @ said).float()
    now.weight.copy_(solution[:-1].T)
    now.bias.copy_(solution[-1])


def _waves(channels: int) -> Tensor:
    """(1000, C) the sinusoids of all steps."""
    steps = torch.arange(_STEPS)
    waves: Tensor = get_timestep_embedding(
        steps, channels, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return waves
