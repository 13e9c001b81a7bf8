"""Stable Diffusion 1 and 2, and what has their layout: one CLIP text encoder, one UNet, one VAE."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from nsync_pipeline.families.clip_tokenizers import (
    TOKENIZER_CLASSES,
    PromptTokenizers,
    load_tokenizers,
)
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.latent_diffusion import VAES, Autoencoder
from nsync_pipeline.families.noise_schedules import diffusion_schedule, load_scheduler
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import Placement, compile_in_place
from nsync_pipeline.families.weights import load_frozen

PIPELINE_CLASS = "StableDiffusionPipeline"
COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
TOKENIZER_COMPONENTS = ("text_encoder", "tokenizer")
ALLOWED: dict[str, Sequence[str]] = {
    "scheduler": (),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": TOKENIZER_CLASSES,
    "unet": ("UNet2DConditionModel",),
    "vae": tuple(VAES),
}

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
"""The attention and feed-forward projections of the UNet's transformer blocks."""


class StableDiffusion:
    """A frozen Stable Diffusion; a ``Family``.

    The denoiser has the placement's ``dtype``. The text encoder and the VAE stay in float32 on
    every device: a prompt or a picture goes through them once, and half precision shows in the
    pictures.
    """

    lora_targets: tuple[str, ...] = LORA_TARGETS
    denoiser_prefix: str = "unet"

    def __init__(
        self, folder: PipelineFolder, resolution: int | None, placement: Placement
    ) -> None:
        """Load the pipeline in ``folder``.

        Raises:
            BaseModelError: a component is of another kind, its weights are missing or broken, or it
                cannot draw at ``resolution``.
        """
        folder.require(ALLOWED)
        self.name = folder.name
        self.embedded = folder.embedded
        self.device = placement.device
        self.dtype = placement.dtype
        self.vae_tiling = placement.vae_tiling
        self._placement = placement
        self.tokenizer = load_tokenizer(folder)
        self.max_prompt_tokens = self.tokenizer.max_prompt_tokens
        self.text_encoder: Any = load_frozen(
            CLIPTextModel, folder, "text_encoder", placement.resting_place, placement.full_dtype
        )
        self.text_encoders: tuple[Any, ...] = (self.text_encoder,)
        self.tokenizers: tuple[Any, ...] = (self.tokenizer.each[0].tokenizer,)
        self.autoencoder = Autoencoder(folder, placement)
        self.vae: Any = self.autoencoder.module
        self.denoiser: nn.Module = load_frozen(
            UNet2DConditionModel, folder, "unet", self.device, self.dtype
        )
        self.scheduler: Any = load_scheduler(folder)
        self.noise_schedule = diffusion_schedule(folder.name, self.scheduler)
        self.revision = folder.revision(COMPONENTS)
        self.pixels_per_latent = self.autoencoder.pixels_per_latent
        self.latent_shape = self.autoencoder.latent_shape(
            folder.name, resolution, self.denoiser.config
        )
        self.resolution = self.latent_shape[1] * self.pixels_per_latent
        self.autoencoder.save_memory(self.resolution)
        if placement.compile:
            compile_in_place(self.denoiser)

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens ``prompt`` has, start and end not counted; nothing is cut off."""
        return self.tokenizer.prompt_tokens(prompt)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """The text encoder's last hidden states (B, L, D), float32, as the pipeline takes them."""
        return self.embed_prompts(prompts)

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """As ``encode_prompts``, with gradients to what is trained in the text encoder."""
        encoded = self.tokenizer.each[0].padded(prompts)
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = encoded["attention_mask"].to(self.device)
        ids = encoded["input_ids"].to(self.device)
        with self._placement.in_use(self.text_encoder):
            return PromptEmbeds(self.text_encoder(ids, attention_mask=mask)[0])

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Latents (B, C, h, w), float32, of ``pixels`` (B, 3, H, W) in [-1, 1]."""
        return self.autoencoder.encode(pixels)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1], float32, of scaled ``latents``."""
        return self.autoencoder.decode(latents)

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        """The UNet's output (B, C, h, w), float32, with gradients to its trainable weights."""
        output = self.denoiser(
            noisy_latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=prompt_embeds.tokens.to(self.device, self.dtype),
        ).sample
        return torch.as_tensor(output.to(self._placement.full_dtype))


def load_tokenizer(folder: PipelineFolder) -> PromptTokenizers:
    """The tokenizer of the pipeline in ``folder``.

    Raises:
        BaseModelError: it cannot be loaded.
    """
    return load_tokenizers(folder, count=1)
