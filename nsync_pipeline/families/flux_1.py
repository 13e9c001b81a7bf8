"""FLUX.1 dev: two streams, then one; trained by flow matching; CLIP and T5 read prompts.

It is distilled from guidance: the scale is told to the denoiser, and a step is one pass. Source:
Black Forest Labs, FLUX.1; the conventions are diffusers'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel

from nsync_pipeline.families.clip_tokenizers import PromptTokenizers, load_tokenizers
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.flow_transformer import TIMES, grid_positions, packed, unpacked
from nsync_pipeline.families.latent_diffusion import LatentDiffusion
from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.noise_schedules import linear_mu, sized_schedule
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.t5 import (
    CLASSES,
    T5Tokenizer,
    load_t5,
    load_t5_tokenizer,
    t5_states,
)
from nsync_pipeline.files import read_json

LORA_TARGETS = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
)  # fmt: skip
"""The attention of both kinds of blocks, as diffusers' script has them."""

WINDOW = 512  # tokens of T5, its end counted: the pipeline's default
IN_TRAINING = 1.0  # the guidance it is told there, as its trainers tell it


@dataclass(frozen=True)
class Flux1Tokenizers:
    """A prompt must fit T5; of what CLIP says only the sum is told, and it is cut."""

    clip: PromptTokenizers
    t5: T5Tokenizer

    @property
    def max_prompt_tokens(self) -> int:
        return self.t5.max_prompt_tokens

    def prompt_tokens(self, prompt: str) -> int:
        return self.t5.prompt_tokens(prompt)


def is_told_guidance(folder: PipelineFolder) -> bool:
    """Whether the denoiser is dev's: schnell, which draws in few steps, is told none."""
    file = folder.path / "transformer" / "config.json"
    if not file.is_file():  # of a hub model it may not be here yet: the loaded one is looked at
        return True
    with loading_errors(file):
        return bool(read_json(file).get("guidance_embeds"))


class Flux1(LatentDiffusion):
    """A frozen FLUX.1 dev; a ``Family``."""

    models = "FLUX.1 dev"
    pipeline_class = "FluxPipeline"
    base_id = "black-forest-labs/FLUX.1-dev"
    components = (
        "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer",
        "vae",
    )  # fmt: skip
    counted_by = ("text_encoder", "tokenizer", "tokenizer_2")
    clip_encoders: ClassVar = {"text_encoder": CLIPTextModel}
    denoiser_class = FluxTransformer2DModel
    noise_schedule_of = partial(sized_schedule, mu=linear_mu, patch=2)
    packed = True
    native_resolution = 1024
    token_side = 2
    lora_targets: tuple[str, ...] = LORA_TARGETS
    denoiser_prefix: str = "transformer"
    architecture: str | None = "flux-1-dev"
    told_guidance: float | None = IN_TRAINING

    @classmethod
    def required_of_prompts(cls) -> dict[str, Sequence[str]]:
        second = {f"{name}_2": kinds for name, kinds in CLASSES.items()}
        return {**super().required_of_prompts(), **second}

    @classmethod
    def load_tokenizer(cls, folder: PipelineFolder) -> Flux1Tokenizers:
        t5 = load_t5_tokenizer(folder, "tokenizer_2", WINDOW)
        return Flux1Tokenizers(load_tokenizers(folder, count=1), t5)

    def load_text_encoders(self, folder: PipelineFolder) -> None:
        both = self.tokenizer
        assert isinstance(both, Flux1Tokenizers)
        self.tokenizer = both.clip
        super().load_text_encoders(folder)
        self.tokenizer = both
        self._t5_tokenizer = both.t5
        self.text_encoders += (load_t5(folder, "text_encoder_2", self._placement),)
        self.tokenizers += (both.t5.tokenizer,)

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """T5's last hidden states (B, 512, D), and CLIP's pooled output (B, P)."""
        clip, t5 = self.text_encoders
        ids = self.clip_tokenizers[0].padded(prompts)["input_ids"].to(self.device)
        with self._placement.in_use(clip):
            pooled = clip(ids).pooler_output
        return PromptEmbeds(t5_states(t5, self._t5_tokenizer, prompts, self._placement), pooled)

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        assert prompt_embeds.pooled is not None
        assert self.told_guidance is not None
        height, width = (side // 2 for side in noisy_latents.shape[2:])
        tokens = prompt_embeds.tokens.to(self.device, self.dtype)
        found = self.denoiser(
            hidden_states=packed(noisy_latents.to(self.device, self.dtype)),
            timestep=timesteps.to(self.device) / TIMES,
            guidance=torch.full((len(tokens),), self.told_guidance, device=self.device),
            pooled_projections=prompt_embeds.pooled.to(self.device, self.dtype),
            encoder_hidden_states=tokens,
            txt_ids=torch.zeros(tokens.shape[1], 3, device=self.device),
            img_ids=grid_positions(height, width, 3, self.device),
            return_dict=False,
        )[0]
        return unpacked(torch.as_tensor(found.to(self._placement.full_dtype)), noisy_latents)

    @classmethod
    def numbers_a_token(cls, config: Mapping[str, Any]) -> int:
        return int(config["joint_attention_dim"])
