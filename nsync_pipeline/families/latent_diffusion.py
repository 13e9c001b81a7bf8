"""The VAE between pictures and latents, as all families have one.

It stays in float32 on every device: half precision shows in the pictures, and the one of Stable
Diffusion XL overflows there (``force_upcast``).
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import SLICED_FROM, Placement
from nsync_pipeline.families.weights import load_frozen

VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


class Autoencoder:
    """Pictures to latents, scaled for the denoiser, and back."""

    def __init__(self, folder: PipelineFolder, placement: Placement) -> None:
        """Load ``vae`` of ``folder``.

        Raises:
            BaseModelError: it cannot be loaded, or scales its latents in a way of its own.
        """
        self._placement = placement
        kind = VAES[folder.index["vae"][1]]
        self.module: Any = load_frozen(
            kind, folder, "vae", placement.resting_place, placement.full_dtype
        )
        config = self.module.config
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise BaseModelError(
                f"{folder.name}: its latents are normalised a channel (latents_mean, latents_std), "
                "which is not taken."
            )
        self._scale = float(config.scaling_factor)
        self._shift = float(config.get("shift_factor") or 0.0)
        self._channels = int(config.latent_channels)
        blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels")
        self.pixels_per_latent = int(2 ** (len(blocks) - 1))

    def latent_shape(
        self, name: str, resolution: int | None, denoiser: Any, patch: int = 1
    ) -> tuple[int, int, int]:
        """The shape (C, h, w) of a square picture's latents, for a denoiser with these settings.

        The picture is ``resolution`` pixels a side, or the denoiser's own; ``patch`` is what the
        denoiser takes as one, latents a side.

        Raises:
            BaseModelError: the denoiser is not for text to image, or cannot draw at this size.
        """
        if denoiser.in_channels != self._channels:
            raise BaseModelError(
                f"{name}: its denoiser takes {denoiser.in_channels} channels and its latents have "
                f"{self._channels}: it is made for inpainting or the like, not for text to image."
            )
        least = self.pixels_per_latent * patch
        if resolution is None:
            own = denoiser.sample_size
            side = int(own if isinstance(own, int) else own[0])
        elif resolution % least:
            raise BaseModelError(
                f"base_model.resolution: {resolution} is not a multiple of the {least} pixels that "
                f"one latent{' patch' if patch > 1 else ''} of {name} covers."
            )
        else:
            side = resolution // self.pixels_per_latent
        return self._channels, side, side

    def save_memory(self, resolution: int) -> None:
        """Take pictures one by one, or in tiles, as the settings or their ``resolution`` ask."""
        sliced = self._placement.vae_slicing
        if resolution >= SLICED_FROM if sliced is None else sliced:
            self.module.enable_slicing()
        if self._placement.vae_tiling:
            self.module.enable_tiling()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Latents ``(z - shift) scale`` (B, C, h, w) of ``pixels`` (B, 3, H, W) in [-1, 1].

        ``AutoencoderKL`` gives a distribution: its mode is taken, so that a picture has one latent,
        computed once. ``AutoencoderTiny`` gives the latents themselves.
        """
        place = self._placement
        with place.in_use(self.module):
            encoded = self.module.encode(pixels.to(place.device, place.full_dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return torch.as_tensor((latents - self._shift) * self._scale)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] of scaled ``latents``."""
        place = self._placement
        unscaled = latents.to(place.device, place.full_dtype) / self._scale + self._shift
        with place.in_use(self.module):
            decoded = self.module.decode(unscaled).sample
        return torch.as_tensor((decoded / 2 + 0.5).clamp(0, 1))
