"""What a model family must offer: the training loop and the sampler use nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PromptEmbeds:
    """Encoded prompts, one a row."""

    tokens: Tensor  # (B, L, D) hidden states of the text encoder(s)
    pooled: Tensor | None = None  # (B, P), for families that condition on it

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def rows(self, index: Tensor) -> "PromptEmbeds":
        """The rows at ``index`` (int64, any length), in that order."""
        pooled = None if self.pooled is None else self.pooled[index]
        return PromptEmbeds(self.tokens[index], pooled)

    @staticmethod
    def cat(parts: Sequence["PromptEmbeds"]) -> "PromptEmbeds":
        """All rows of ``parts`` below one another."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return PromptEmbeds(
            torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None
        )


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process the base was trained with: ``x_t = signal[t] x_0 + noise[t] e``."""

    prediction_type: str  # epsilon, v_prediction, or flow (rectified flow: e - x_0)
    signal: Tensor  # (T,) float64, from the least noisy entry to the noisiest
    noise: Tensor  # (T,) float64
    timesteps: Tensor  # (T,) what the denoiser is told at each entry: int64, or float32 for flow

    def __len__(self) -> int:
        return len(self.timesteps)


class Family(Protocol):
    """A loaded, frozen base model."""

    name: str  # as the user named it: sketchbook, a hub id, a folder
    revision: str  # the hub's commit, else `sha256:` and 16 digits over the model's files
    embedded: bool  # whether it is the sketchbook base
    resolution: int  # side in pixels of the square pictures it draws
    max_prompt_tokens: int  # of the text encoder, its start and end tokens not counted
    device: torch.device
    dtype: torch.dtype  # of the denoiser's frozen weights
    vae_tiling: bool  # pictures are encoded and decoded in tiles, which shows in the numbers
    denoiser: nn.Module
    noise_schedule: NoiseSchedule
    scheduler: Any  # the model's own of diffusers: the sampler's betas, or the sampler itself
    latent_shape: tuple[int, int, int]  # (C, h, w) of a square picture at `resolution`
    pixels_per_latent: int  # along a side
    lora_targets: tuple[str, ...]  # name endings of the denoiser layers adapted by default
    denoiser_prefix: str  # of its keys in a LoRA's file, as diffusers names it: unet, transformer
    text_encoders: tuple[Any, ...]  # in diffusers' order: text_encoder, text_encoder_2, ...
    tokenizers: tuple[Any, ...]  # the same order

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens ``prompt`` has, start and end not counted; nothing is cut off."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Encode without gradients; a prompt longer than the window is cut, as diffusers does.

        The empty prompt, of guidance and dropped captions, is the pipeline's (of some, zeros).
        """
        ...

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """As ``encode_prompts``, with gradients to what is trained in the text encoders."""
        ...

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Latents (B, C, h, w), scaled for the denoiser, of ``pixels`` (B, 3, H, W) in [-1, 1].

        The same pixels always give the same latents: nothing is sampled.
        """
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] of scaled ``latents``."""
        ...

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        """The denoiser's output (B, C, h, w), float32, with gradients to its trainable weights.

        ``timesteps`` is (B,), in the units of ``noise_schedule.timesteps``. ``geometry`` is (B, 6)
        int64, as ``geometry_of`` says, for families that are told it; None: whole pictures of the
        latents' size.
        """
        ...


SD2_WIDTH = 1024  # of the text encoder of Stable Diffusion 2; that of 1 has 768


def architecture_of(family: Family) -> str:
    """The id of the architecture that ``family`` belongs to, as the model specification has it.

    Source: https://github.com/Stability-AI/ModelSpec, "modelspec.architecture".
    """
    if family.embedded:
        return "sketchbook"
    if family.denoiser_prefix == "transformer":
        return "stable-diffusion-3"
    if len(family.text_encoders) == 2:
        return "stable-diffusion-xl-v1-base"
    if family.text_encoders[0].config.hidden_size != SD2_WIDTH:
        return "stable-diffusion-v1"
    predicts_v = family.noise_schedule.prediction_type == "v_prediction"
    return "stable-diffusion-v2-768-v" if predicts_v else "stable-diffusion-v2-512"
