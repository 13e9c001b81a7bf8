"""Stable Diffusion 3 and 3.5: a transformer trained by flow matching, and three text encoders.

Source: Esser et al., arXiv 2403.03206; the conventions are diffusers'.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, T5EncoderModel, T5TokenizerFast

from nsync_pipeline.families.clip_tokenizers import (
    TOKENIZER_CLASSES,
    PromptTokenizers,
    load_tokenizers,
)
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.latent_diffusion import VAES, Autoencoder
from nsync_pipeline.families.noise_schedules import flow_schedule, load_scheduler
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import Placement, compile_in_place
from nsync_pipeline.families.weights import load_frozen, loading_errors

PIPELINE_CLASS = "StableDiffusion3Pipeline"
COMPONENTS = (
    "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2",
    "tokenizer_3", "transformer", "vae",
)  # fmt: skip
TOKENIZER_COMPONENTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
ALLOWED: dict[str, Sequence[str]] = {
    "scheduler": (),
    "text_encoder": ("CLIPTextModelWithProjection",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": TOKENIZER_CLASSES,
    "tokenizer_2": TOKENIZER_CLASSES,
    "transformer": ("SD3Transformer2DModel",),
    "vae": tuple(VAES),
}
ALLOWED_T5: dict[str, Sequence[str]] = {
    "text_encoder_3": ("T5EncoderModel",),
    "tokenizer_3": ("T5TokenizerFast", "T5Tokenizer"),
}

LORA_TARGETS = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
)  # fmt: skip
"""The projections of the joint attention, of pictures and of prompts, as diffusers' script has."""

PENULTIMATE = -2
"""The hidden states that are taken of each CLIP text encoder: before its last layer."""

T5_WINDOW = 256
"""Tokens of T5, its end counted: the pipeline's default."""


class StableDiffusion3:
    """A frozen Stable Diffusion 3; a ``Family``.

    The transformer has the placement's ``dtype``, and so has T5, whose 4.7 billion weights are too
    many for more; the two CLIP text encoders and the VAE stay in float32. Where the pipeline has no
    T5, zeros stand for what it would say, as the model was trained for.
    """

    lora_targets: tuple[str, ...] = LORA_TARGETS
    denoiser_prefix: str = "transformer"

    def __init__(
        self, folder: PipelineFolder, resolution: int | None, placement: Placement
    ) -> None:
        """Load the pipeline in ``folder``.

        Raises:
            BaseModelError: a component is of another kind, its weights are missing or broken, or it
                cannot draw at ``resolution``.
        """
        has_t5 = folder.component("text_encoder_3") is not None
        folder.require(ALLOWED | (ALLOWED_T5 if has_t5 else {}))
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
            load_frozen(CLIPTextModelWithProjection, folder, "text_encoder", rest, full),
            load_frozen(CLIPTextModelWithProjection, folder, "text_encoder_2", rest, full),
        )
        self.tokenizers: tuple[Any, ...] = tuple(one.tokenizer for one in self.tokenizer.each)
        if has_t5:
            t5 = load_frozen(T5EncoderModel, folder, "text_encoder_3", rest, self.dtype)
            with loading_errors(folder.path / "tokenizer_3"):
                t5_tokenizer = T5TokenizerFast.from_pretrained(folder.path, subfolder="tokenizer_3")
            self.text_encoders += (t5,)
            self.tokenizers += (t5_tokenizer,)
        self.autoencoder = Autoencoder(folder, placement)
        self.vae: Any = self.autoencoder.module
        self.denoiser: nn.Module = load_frozen(
            SD3Transformer2DModel, folder, "transformer", self.device, self.dtype
        )
        self.scheduler: Any = load_scheduler(folder)
        self.noise_schedule = flow_schedule(folder.name, self.scheduler)
        self.revision = folder.revision(COMPONENTS)
        self.pixels_per_latent = self.autoencoder.pixels_per_latent
        transformer: Any = self.denoiser.config
        self._prompt_width = int(transformer.joint_attention_dim)
        self.latent_shape = self.autoencoder.latent_shape(
            folder.name, resolution, transformer, int(transformer.patch_size)
        )
        self.resolution = self.latent_shape[1] * self.pixels_per_latent
        self.autoencoder.save_memory(self.resolution)
        if placement.compile:
            compile_in_place(self.denoiser)

    def prompt_tokens(self, prompt: str) -> int:
        """The most tokens a CLIP tokenizer gives ``prompt``, start and end not counted."""
        return self.tokenizer.prompt_tokens(prompt)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """The prompt as the transformer takes it: tokens (B, L + 256, D) and pooled (B, P1 + P2).

        Above: both CLIPs' penultimate hidden states side by side, filled up with zeros to T5's
        width; below: T5's last hidden states. Pooled: both CLIPs' projected outputs.
        """
        return self.embed_prompts(prompts)

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """As ``encode_prompts``, with gradients to what is trained in the text encoders."""
        hidden, pooled = [], []
        for tokenizer, encoder in zip(self.tokenizer.each, self.text_encoders[:2], strict=True):
            ids = tokenizer.padded(prompts)["input_ids"].to(self.device)
            with self._placement.in_use(encoder):
                output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[PENULTIMATE])
            pooled.append(output[0])
        clip = torch.cat(hidden, dim=-1)
        clip = F.pad(clip, (0, self._prompt_width - clip.shape[-1]))
        return PromptEmbeds(
            torch.cat([clip, self._t5_states(prompts).to(clip)], dim=1), torch.cat(pooled, dim=-1)
        )

    def _t5_states(self, prompts: Sequence[str]) -> Tensor:
        if len(self.text_encoders) < 3:
            return torch.zeros(len(prompts), T5_WINDOW, self._prompt_width, device=self.device)
        encoded = self.tokenizers[2](
            list(prompts),
            padding="max_length",
            max_length=T5_WINDOW,
            truncation=True,
            return_tensors="pt",
        )
        t5 = self.text_encoders[2]
        with self._placement.in_use(t5):
            return torch.as_tensor(t5(encoded.input_ids.to(self.device))[0])

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
        """The velocity ``e - x_0`` (B, C, h, w), float32, with gradients to trainable weights."""
        assert prompt_embeds.pooled is not None
        output = self.denoiser(
            hidden_states=noisy_latents.to(self.device, self.dtype),
            timestep=timesteps.to(self.device),
            encoder_hidden_states=prompt_embeds.tokens.to(self.device, self.dtype),
            pooled_projections=prompt_embeds.pooled.to(self.device, self.dtype),
        ).sample
        return torch.as_tensor(output.to(self._placement.full_dtype))


def load_tokenizer(folder: PipelineFolder) -> PromptTokenizers:
    """The CLIP tokenizers of the pipeline in ``folder``, whose windows are the shorter ones.

    Raises:
        BaseModelError: one cannot be loaded.
    """
    return load_tokenizers(folder, count=2)
