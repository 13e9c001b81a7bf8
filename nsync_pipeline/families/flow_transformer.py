"""What the transformers share that are trained by flow matching and take pictures as tokens.

The path they are trained on may be shifted by the picture's size.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.language_model import (
    TOKENIZER_CLASSES,
    LanguageModel,
    LanguageTokenizer,
    load_language_tokenizer,
)
from nsync_pipeline.families.latent_diffusion import LatentDiffusion
from nsync_pipeline.families.noise_schedules import linear_mu, sized_schedule
from nsync_pipeline.families.pipeline_folder import PipelineFolder

TIMES = 1000.0  # what these models' pipelines divide a timestep by


class FlowTransformer(LatentDiffusion):
    """A frozen base model of that kind but for its prompts, and where it is told that tokens are.

    The latter is ``conditions``.
    """

    noise_schedule_of = partial(sized_schedule, mu=linear_mu, patch=2)
    native_resolution = 1024
    token_side = 2
    denoiser_prefix: str = "transformer"

    @classmethod
    def numbers_a_token(cls, config: Mapping[str, Any]) -> int:
        return int(config["joint_attention_dim"])

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        found = self.denoiser(
            hidden_states=as_tokens(noisy_latents.to(self.device, self.dtype), self.token_side),
            timestep=timesteps.to(self.device) / TIMES,
            encoder_hidden_states=prompt_embeds.tokens.to(self.device, self.dtype),
            **self.conditions(noisy_latents, prompt_embeds, geometry),
            return_dict=False,
        )[0]
        return as_latents(self.in_full(found), noisy_latents, self.token_side)

    def in_full(self, prediction: Tensor) -> Tensor:
        return torch.as_tensor(prediction.to(self._placement.full_dtype))

    def mask_of(self, prompt_embeds: PromptEmbeds) -> Tensor | None:
        """Which tokens there are (B, L), on the denoiser's device; None: all of them."""
        mask = prompt_embeds.mask
        return None if mask is None else mask.to(self.device)

    def grid_positions(self, latents: Tensor, axes: int) -> Tensor:
        """Row and column of each token of ``latents`` on axes 1 and 2 of ``axes``: (h w, axes)."""
        height, width = (side // self.token_side for side in latents.shape[2:])
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        positions = torch.zeros(height * width, axes, dtype=torch.int64)
        positions[:, 1], positions[:, 2] = rows.flatten(), columns.flatten()
        return positions.to(self.device)


class LanguageTransformer(FlowTransformer):
    """The same, where a language model reads the prompts."""

    language_models: ClassVar[Mapping[str, Any]]  # the classes its text encoder may have
    window: ClassVar[int]  # tokens, of the prompt and of what is put around it
    components = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
    clip_encoders: ClassVar[Mapping[str, Any]] = {}
    counted_by = ("tokenizer",)
    tokenizer: LanguageTokenizer

    @classmethod
    def required_of_prompts(cls) -> dict[str, Sequence[str]]:
        return {"text_encoder": tuple(cls.language_models), "tokenizer": TOKENIZER_CLASSES}

    @staticmethod
    @abstractmethod
    def written(tokenizer: Any, prompt: str, /) -> str:
        """``prompt`` as the language model reads it, with what is put around it."""

    @classmethod
    def load_tokenizer(cls, folder: PipelineFolder) -> LanguageTokenizer:
        return load_language_tokenizer(folder, cls.written, cls.window)

    def load_text_encoders(self, folder: PipelineFolder) -> None:
        self.language_model = LanguageModel(folder, self.language_models, self._placement)
        self.text_encoders = self.tokenizers = ()

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Of each prompt the tokens it has, in the language model's type.

        Each is read alone: it does not depend on the others. Nothing of a language model is
        trained, so there are no gradients.
        """
        said = {prompt: self.read(prompt) for prompt in dict.fromkeys(prompts)}
        found = PromptEmbeds.of([said[prompt] for prompt in prompts])
        if self._placement.release_text_encoders:
            self.language_model.release()
        return found

    @abstractmethod
    def read(self, prompt: str) -> Tensor:
        """What the denoiser is told of ``prompt``: (L, ...)."""


def as_tokens(latents: Tensor, side: int) -> Tensor:
    """Each square of ``side`` latents (B, C, h, w) a side as a token: (B, tokens, side^2 C)."""
    return pixel_unshuffle(latents, side).flatten(2).mT


def as_latents(tokens: Tensor, like: Tensor, side: int) -> Tensor:
    """``tokens`` (B, tokens, side^2 C) as latents of the size of ``like`` (B, C, h, w)."""
    height, width = like.shape[2:]
    return pixel_shuffle(
        tokens.mT.reshape(*tokens.mT.shape[:2], height // side, width // side), side
    )
