"""What the families share: their parts, and the VAE between pictures and latents.

The VAE stays in float32 on every device: half precision shows in the pictures, and the one of
Stable Diffusion XL overflows there (``force_upcast``).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.clip_tokenizers import TOKENIZER_CLASSES, load_tokenizers
from nsync_pipeline.families.family import NoiseSchedule, PromptEmbeds
from nsync_pipeline.families.noise_schedules import diffusion_schedule, load_scheduler
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import SLICED_FROM, Placement, compile_in_place
from nsync_pipeline.families.weights import load_frozen

VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


class Autoencoder:
    """Pictures to latents, scaled for the denoiser, and back."""

    def __init__(self, folder: PipelineFolder, placement: Placement) -> None:
        """Load ``vae`` of ``folder``: BaseModelError where it scales latents in its own way."""
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
        denoiser takes as one, latents a side. BaseModelError where it cannot draw so.
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

        Of ``AutoencoderKL``'s distribution the mode is taken: a picture has one latent.
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


UNET_LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
"""The attention and feed-forward projections of a UNet's transformer blocks."""


class LatentDiffusion:
    """A frozen base model but for how prompts become embeddings: what ``Family`` says.

    The denoiser has the placement's ``dtype``. The CLIP text encoders and the VAE stay in float32
    on every device: a prompt or a picture goes through them once, and half precision shows.
    """

    models: ClassVar[str]  # for messages
    pipeline_class: ClassVar[str]  # what the index of a diffusers pipeline calls it
    components: ClassVar[tuple[str, ...]]  # the pipeline's subfolders that a whole model needs
    clip_encoders: ClassVar[Mapping[str, Any]]  # the classes of the CLIP text encoders
    denoiser_class: ClassVar[Any] = UNet2DConditionModel
    noise_schedule_of: ClassVar[Callable[[str, Any], NoiseSchedule]] = diffusion_schedule
    lora_targets: tuple[str, ...] = UNET_LORA_TARGETS
    denoiser_prefix: str = "unet"

    def __init__(
        self, folder: PipelineFolder, resolution: int | None, placement: Placement
    ) -> None:
        """Load the pipeline in ``folder``: BaseModelError where it cannot be, or draw so large."""
        folder.require(self.required())
        self.name, self.embedded = folder.name, folder.embedded
        self.device, self.dtype = placement.device, placement.dtype
        self.vae_tiling = placement.vae_tiling
        self._placement = placement
        self.tokenizer = load_tokenizers(folder, count=len(self.clip_encoders))
        self.max_prompt_tokens = self.tokenizer.max_prompt_tokens
        self.text_encoders: tuple[Any, ...] = tuple(
            load_frozen(kind, folder, name, placement.resting_place, placement.full_dtype)
            for name, kind in self.clip_encoders.items()
        )
        self.tokenizers: tuple[Any, ...] = tuple(of.tokenizer for of in self.tokenizer.each)
        self.autoencoder = Autoencoder(folder, placement)
        self.vae: Any = self.autoencoder.module
        self.denoiser: nn.Module = load_frozen(
            self.denoiser_class, folder, self.denoiser_prefix, self.device, self.dtype
        )
        self.scheduler: Any = load_scheduler(folder)
        self.noise_schedule = type(self).noise_schedule_of(folder.name, self.scheduler)
        self.revision = folder.revision(self.components)
        self.pixels_per_latent = self.autoencoder.pixels_per_latent
        config: Any = self.denoiser.config
        patch = int(config.get("patch_size") or 1)
        self.latent_shape = self.autoencoder.latent_shape(folder.name, resolution, config, patch)
        self.resolution = self.latent_shape[1] * self.pixels_per_latent
        self.autoencoder.save_memory(self.resolution)
        if placement.compile:
            compile_in_place(self.denoiser)

    @classmethod
    def required(cls) -> dict[str, Sequence[str]]:
        """The classes that each component may have; none named: any."""
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in cls.clip_encoders]
        return {
            "scheduler": (),
            **{name: (kind.__name__,) for name, kind in cls.clip_encoders.items()},
            **dict.fromkeys(tokenizers, TOKENIZER_CLASSES),
            cls.denoiser_prefix: (cls.denoiser_class.__name__,),
            "vae": tuple(VAES),
        }

    def prompt_tokens(self, prompt: str) -> int:
        return self.tokenizer.prompt_tokens(prompt)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        return self.embed_prompts(prompts)

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        raise NotImplementedError

    def clip_states(self, prompts: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """The CLIPs' penultimate hidden states side by side (B, L, D1 + D2); outputs (B, P) each.

        The outputs are pooled and projected where the encoder does so.
        """
        hidden, outputs = [], []
        encoders = self.text_encoders[: len(self.clip_encoders)]
        for tokenizer, encoder in zip(self.tokenizer.each, encoders, strict=True):
            ids = tokenizer.padded(prompts)["input_ids"].to(self.device)
            with self._placement.in_use(encoder):
                output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            outputs.append(output[0])
        return torch.cat(hidden, dim=-1), outputs

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        return self.autoencoder.encode(pixels)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        output = self.denoiser(
            noisy_latents.to(self.device, self.dtype),
            timestep=timesteps.to(self.device),
            encoder_hidden_states=prompt_embeds.tokens.to(self.device, self.dtype),
            **self.conditions(noisy_latents, prompt_embeds, geometry),
        ).sample
        return torch.as_tensor(output.to(self._placement.full_dtype))

    def conditions(
        self, noisy_latents: Tensor, prompt_embeds: PromptEmbeds, geometry: Tensor | None
    ) -> Mapping[str, Any]:
        """What the denoiser is given besides latents, timesteps and the prompts' tokens."""
        return {}
