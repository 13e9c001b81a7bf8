"""The VAE between pictures and latents, scaled as the denoiser takes them.

It stays in float32 on every device: half precision shows in the pictures, and the one of Stable
Diffusion XL overflows there (``force_upcast``).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, AutoencoderTiny
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import SLICED_FROM, Placement
from nsync_pipeline.families.weights import load_frozen


class Autoencoder:
    """Pictures to latents and back; latents are ``(z - shift) scale``."""

    kinds: ClassVar[Mapping[str, Any]] = {
        "AutoencoderKL": AutoencoderKL,
        "AutoencoderTiny": AutoencoderTiny,
    }

    @classmethod
    def reduction(cls, config: Mapping[str, Any]) -> int:
        """Pixels along a side of a latent, of a VAE with these settings."""
        blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels") or ()
        return int(2 ** max(len(blocks) - 1, 0))

    def __init__(self, folder: PipelineFolder, placement: Placement) -> None:
        """Load ``vae`` of ``folder``: BaseModelError where it scales latents in its own way."""
        self._placement = placement
        kind = self.kinds[folder.index["vae"][1]]
        self.module: Any = load_frozen(
            kind, folder, "vae", placement.resting_place, placement.full_dtype
        )
        self.read_settings(folder.name, self.module.config)
        self.pixels_per_latent = self.reduction(self.module.config)

    def read_settings(self, name: str, config: Any) -> None:
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise BaseModelError(
                f"{name}: its latents are normalised a channel (latents_mean, latents_std), "
                "which is not taken."
            )
        self._scale = float(config.scaling_factor)
        self._shift = float(config.get("shift_factor") or 0.0)
        self.channels = int(config.latent_channels)

    def save_memory(self, resolution: int) -> None:
        """Take pictures one by one, or in tiles, as the settings or their ``resolution`` ask."""
        sliced = self._placement.vae_slicing
        if resolution >= SLICED_FROM if sliced is None else sliced:
            self.module.enable_slicing()
        if self._placement.vae_tiling:
            self.module.enable_tiling()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Latents (B, C, h, w) of ``pixels`` (B, 3, H, W) in [-1, 1].

        Where the VAE gives a distribution, its mode is taken: a picture has one latent.
        """
        place = self._placement
        with place.in_use(self.module):
            encoded = self.module.encode(self.to_module(pixels.to(place.device, place.full_dtype)))
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
            return self.scaled(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] of scaled ``latents``."""
        place = self._placement
        with place.in_use(self.module):
            unscaled = self.unscaled(latents.to(place.device, place.full_dtype))
            decoded = self.from_module(self.module.decode(unscaled).sample)
        return torch.as_tensor((decoded / 2 + 0.5).clamp(0, 1))

    def to_module(self, pixels: Tensor) -> Tensor:
        """``pixels`` as the VAE's own class takes them."""
        return pixels

    def from_module(self, pixels: Tensor) -> Tensor:
        return pixels

    def scaled(self, latents: Tensor) -> Tensor:
        """The VAE's own latents as the denoiser was trained on them."""
        return (latents - self._shift) * self._scale

    def unscaled(self, latents: Tensor) -> Tensor:
        return latents / self._scale + self._shift


class Flux2Autoencoder(Autoencoder):
    """That of FLUX.2: four latents are one of four times the channels, normalised a channel."""

    kinds: ClassVar[Mapping[str, Any]] = {"AutoencoderKLFlux2": AutoencoderKLFlux2}

    @classmethod
    def reduction(cls, config: Mapping[str, Any]) -> int:
        return 2 * super().reduction(config)

    def read_settings(self, name: str, config: Any) -> None:
        self.channels = 4 * int(config.latent_channels)
        self._least_variance = float(config.batch_norm_eps)

    def scaled(self, latents: Tensor) -> Tensor:
        mean, deviation = self._statistics()
        return (pixel_unshuffle(latents, 2) - mean) / deviation

    def unscaled(self, latents: Tensor) -> Tensor:
        mean, deviation = self._statistics()
        return pixel_shuffle(latents * deviation + mean, 2)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (1, C, 1, 1): those of a normalisation that is a buffer."""
        running = self.module.bn
        variance = running.running_var.view(1, -1, 1, 1) + self._least_variance
        return running.running_mean.view(1, -1, 1, 1), variance.sqrt()


class QwenAutoencoder(Autoencoder):
    """That of Qwen-Image, made for films: a picture is one of a single frame."""

    kinds: ClassVar[Mapping[str, Any]] = {"AutoencoderKLQwenImage": AutoencoderKLQwenImage}

    @classmethod
    def reduction(cls, config: Mapping[str, Any]) -> int:
        return int(2 ** len(config.get("temperal_downsample") or (0, 0, 0)))

    def read_settings(self, name: str, config: Any) -> None:
        self.channels = int(config.z_dim)
        self._mean = torch.tensor(config.latents_mean, dtype=torch.float64).view(1, -1, 1, 1)
        self._deviation = torch.tensor(config.latents_std, dtype=torch.float64).view(1, -1, 1, 1)

    def to_module(self, pixels: Tensor) -> Tensor:
        return pixels[:, :, None]

    def from_module(self, pixels: Tensor) -> Tensor:
        return pixels[:, :, 0]

    def scaled(self, latents: Tensor) -> Tensor:
        frame = latents[:, :, 0]
        return (frame - self._mean.to(frame)) / self._deviation.to(frame)

    def unscaled(self, latents: Tensor) -> Tensor:
        return (latents * self._deviation.to(latents) + self._mean.to(latents))[:, :, None]
