"""What a model family must offer: the training loop and the sampler use nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PromptEmbeds:
    """Encoded prompts, one a row."""

    tokens: Tensor  # (B, L, D) hidden states of the text encoder(s); (B, L, N, D) of N layers
    pooled: Tensor | None = None  # (B, P), for families that condition on it
    lengths: tuple[int, ...] | None = None  # B: the tokens that there are; None: L of each

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def mask(self) -> Tensor | None:
        """(B, L) bool: which tokens there are; None: all of them."""
        if self.lengths is None:
            return None
        return torch.arange(self.tokens.shape[1]) < torch.tensor(self.lengths)[:, None]

    def each(self) -> tuple[Tensor, ...]:
        """The tokens that there are of each prompt, (L, ...) as long as it is."""
        if self.lengths is None:
            return tuple(self.tokens)
        return tuple(row[:length] for row, length in zip(self.tokens, self.lengths, strict=True))

    def rows(self, index: Tensor) -> "PromptEmbeds":
        """The rows at ``index`` (int64, any length), in that order."""
        pooled = None if self.pooled is None else self.pooled[index]
        if self.lengths is None:
            return PromptEmbeds(self.tokens[index], pooled)
        each = self.each()
        return PromptEmbeds.of([each[row] for row in index.tolist()], pooled)

    @staticmethod
    def of(rows: Sequence[Tensor], pooled: Tensor | None = None) -> "PromptEmbeds":
        """Of each prompt's tokens (L, ...), filled up with zeros to the longest."""
        lengths = tuple(len(row) for row in rows)
        tokens = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        return PromptEmbeds(tokens, pooled, lengths if len(set(lengths)) > 1 else None)

    @staticmethod
    def cat(parts: Sequence["PromptEmbeds"]) -> "PromptEmbeds":
        """All rows of ``parts`` below one another."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        rows = [row for part in parts for row in part.each()]
        return PromptEmbeds.of(rows, torch.cat(pooled) if pooled else None)


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process the base was trained with: ``x_t = signal[t] x_0 + noise[t] e``."""

    prediction_type: str  # epsilon, v_prediction, or flow (rectified flow: e - x_0)
    signal: Tensor  # (T,) float64, from the least noisy entry to the noisiest
    noise: Tensor  # (T,) float64
    timesteps: Tensor  # (T,) what the denoiser is told at each entry: int64, or float32 for flow

    def __len__(self) -> int:
        return len(self.timesteps)

    def of_size(self, height: int, width: int) -> "NoiseSchedule":
        """The schedule of latents of this size: of most models, the same for all."""
        return self


class TokenCounter(Protocol):
    """Counts a prompt's tokens as the text encoders take them, without their weights."""

    @property
    def max_prompt_tokens(self) -> int:
        """The most tokens a prompt may have, what is put around it not counted."""
        ...

    def prompt_tokens(self, prompt: str) -> int:
        """How many ``prompt`` has, counted so; nothing is cut off."""
        ...


class Family(Protocol):
    """A loaded, frozen base model."""

    name: str  # as the user named it: sketchbook, a hub id, a folder
    revision: str  # the hub's commit, else `sha256:` and 16 digits over the model's files
    embedded: bool  # whether it is the sketchbook base
    architecture: str | None  # what the model specification calls it, where one name says it
    resolution: int  # side in pixels of the square pictures it draws
    max_prompt_tokens: int  # of the text encoder, its start and end tokens not counted
    device: torch.device
    dtype: torch.dtype  # of the denoiser's frozen weights
    quantization: str | None  # of those weights, int8, fp8 or nf4; None: they are not quantized
    vae_tiling: bool  # pictures are encoded and decoded in tiles, which shows in the numbers
    told_guidance: float | None  # what the denoiser itself is told; None: guidance is of two passes
    denoiser: nn.Module
    noise_schedule: NoiseSchedule
    scheduler: Any  # the model's own of diffusers: the sampler's betas, or the sampler itself
    latent_shape: tuple[int, int, int]  # (C, h, w) of a square picture at `resolution`
    pixels_per_latent: int  # along a side
    patch: int  # latents along a side that the denoiser takes as one
    lora_targets: tuple[str, ...]  # name endings of the denoiser layers adapted by default
    denoiser_prefix: str  # of its keys in a LoRA's file, as diffusers names it: unet, transformer
    text_encoders: tuple[Any, ...]  # text_encoder, text_encoder_2, ...; no language models
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

    def guided(self, empty: Tensor, prompted: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance of two predictions (B, C, h, w), as the family's pipeline."""
        ...


SD2_WIDTH = 1024  # of the text encoder of Stable Diffusion 2; that of 1 has 768


def architecture_of(family: Family) -> str:
    """The id of the architecture that ``family`` belongs to, as the model specification has it.

    Source: https://github.com/Stability-AI/ModelSpec, "modelspec.architecture".
    """
    if family.embedded:
        return "sketchbook"
    if family.architecture is not None:
        return family.architecture
    if len(family.text_encoders) == 2:
        return "stable-diffusion-xl-v1-base"
    if family.text_encoders[0].config.hidden_size != SD2_WIDTH:
        return "stable-diffusion-v1"
    predicts_v = family.noise_schedule.prediction_type == "v_prediction"
    return "stable-diffusion-v2-768-v" if predicts_v else "stable-diffusion-v2-512"
