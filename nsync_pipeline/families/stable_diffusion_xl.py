"""Stable Diffusion XL: two CLIP text encoders, and a UNet that is told the picture's geometry.

Source: Podell et al., arXiv 2307.01952; the conventions are diffusers'.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from nsync_pipeline.errors import BaseModelError
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

PIPELINE_CLASS = "StableDiffusionXLPipeline"
COMPONENTS = (
    "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae",
)  # fmt: skip
TOKENIZER_COMPONENTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
ALLOWED: dict[str, Sequence[str]] = {
    "scheduler": (),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": TOKENIZER_CLASSES,
    "tokenizer_2": TOKENIZER_CLASSES,
    "unet": ("UNet2DConditionModel",),
    "vae": tuple(VAES),
}

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
"""The attention and feed-forward projections of the UNet's transformer blocks."""

PENULTIMATE = -2
"""The hidden states that are taken of each text encoder: before its last layer."""


class StableDiffusionXL:
    """A frozen Stable Diffusion XL; a ``Family``.

    The UNet has the placement's ``dtype``; text encoders and VAE stay in float32.
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
        rest, full = placement.resting_place, placement.full_dtype
        self.text_encoders: tuple[Any, ...] = (
            load_frozen(CLIPTextModel, folder, "text_encoder", rest, full),
            load_frozen(CLIPTextModelWithProjection, folder, "text_encoder_2", rest, full),
        )
        self.tokenizers: tuple[Any, ...] = tuple(one.tokenizer for one in self.tokenizer.each)
        self._zeros_for_empty = bool(folder.index.get("force_zeros_for_empty_prompt", True))
        self.autoencoder = Autoencoder(folder, placement)
        self.vae: Any = self.autoencoder.module
        self.denoiser: nn.Module = load_frozen(
            UNet2DConditionModel, folder, "unet", self.device, self.dtype
        )
        self._require_geometry()
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

    def _require_geometry(self) -> None:
        """The UNet must take the pooled prompt and the six numbers of the geometry."""
        unet: Any = self.denoiser.config
        pooled = int(self.text_encoders[1].config.projection_dim)
        expected = pooled + 6 * int(unet.addition_time_embed_dim or 0)
        found = unet.projection_class_embeddings_input_dim
        if unet.addition_embed_type != "text_time" or found != expected:
            raise BaseModelError(
                f"{self.name}: its UNet takes {found} numbers besides the prompt, and that of "
                f"Stable Diffusion XL takes {expected} (text_time). The refiner is not taken."
            )

    def prompt_tokens(self, prompt: str) -> int:
        """The most tokens a tokenizer gives ``prompt``, start and end not counted."""
        return self.tokenizer.prompt_tokens(prompt)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Both encoders' penultimate hidden states side by side (B, L, D1 + D2), float32; and the
        second's projected pooled output (B, P).

        Where the model says so (``force_zeros_for_empty_prompt``), the empty prompt is all zeros,
        in guidance and in caption dropout alike: so it was dropped when the base was trained.
        """
        return self.embed_prompts(prompts)

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """As ``encode_prompts``, with gradients to what is trained in the text encoders."""
        hidden, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizer.each, self.text_encoders, strict=True):
            ids = tokenizer.padded(prompts)["input_ids"].to(self.device)
            with self._placement.in_use(encoder):
                output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[PENULTIMATE])
            pooled = output[0]  # of the second, in the end
        assert pooled is not None
        tokens = torch.cat(hidden, dim=-1)
        if self._zeros_for_empty:
            said = torch.tensor([prompt != "" for prompt in prompts], device=self.device)
            tokens = torch.where(said[:, None, None], tokens, 0.0)
            pooled = torch.where(said[:, None], pooled, 0.0)
        return PromptEmbeds(tokens, pooled)

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
        """The UNet's output (B, C, h, w), float32, with gradients to its trainable weights.

        ``geometry`` (B, 6) is what diffusers calls the time ids, in its order.
        """
        assert prompt_embeds.pooled is not None
        if geometry is None:
            height, width = (side * self.pixels_per_latent for side in noisy_latents.shape[2:])
            whole = torch.tensor([height, width, 0, 0, height, width])
            geometry = whole.expand(len(noisy_latents), 6)
        output = self.denoiser(
            noisy_latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=prompt_embeds.tokens.to(self.device, self.dtype),
            added_cond_kwargs={
                "text_embeds": prompt_embeds.pooled.to(self.device, self.dtype),
                "time_ids": geometry.to(self.device),  # whole numbers: 1001 is not one in bfloat16
            },
        ).sample
        return torch.as_tensor(output.to(self._placement.full_dtype))


def load_tokenizer(folder: PipelineFolder) -> PromptTokenizers:
    """The tokenizers of the pipeline in ``folder``.

    Raises:
        BaseModelError: one cannot be loaded.
    """
    return load_tokenizers(folder, count=2)
