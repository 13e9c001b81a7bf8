"""Stable Diffusion 3 and 3.5: a transformer trained by flow matching, and three text encoders.

Source: Esser et al., arXiv 2403.03206; the conventions are diffusers'.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection

from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.latent_diffusion import JOINT_LORA_TARGETS, LatentDiffusion
from nsync_pipeline.families.noise_schedules import flow_schedule
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import Placement
from nsync_pipeline.families.t5 import CLASSES, load_t5, load_t5_tokenizer, t5_states

ALLOWED_T5: dict[str, Sequence[str]] = {f"{name}_3": kinds for name, kinds in CLASSES.items()}

T5_WINDOW = 256  # tokens of T5, its end counted: the pipeline's default


class StableDiffusion3(LatentDiffusion):
    """A frozen Stable Diffusion 3; a ``Family``.

    Where the pipeline has no T5, zeros stand for what it would say, as the model was trained for.
    """

    models = "Stable Diffusion 3 or 3.5"
    pipeline_class = "StableDiffusion3Pipeline"
    base_id = "stabilityai/stable-diffusion-3.5-medium"
    components = (
        "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2",
        "tokenizer_3", "transformer", "vae",
    )  # fmt: skip
    clip_encoders: ClassVar = dict.fromkeys(
        ("text_encoder", "text_encoder_2"), CLIPTextModelWithProjection
    )
    denoiser_class = SD3Transformer2DModel
    noise_schedule_of = flow_schedule
    lora_targets: tuple[str, ...] = JOINT_LORA_TARGETS
    denoiser_prefix: str = "transformer"
    architecture: str | None = "stable-diffusion-3"

    def __init__(
        self, folder: PipelineFolder, resolution: int | None, placement: Placement
    ) -> None:
        """Load the pipeline in ``folder``; raises as any family."""
        has_t5 = folder.component("text_encoder_3") is not None
        folder.require(ALLOWED_T5 if has_t5 else {})
        super().__init__(folder, resolution, placement)
        transformer: Any = self.denoiser.config
        self._prompt_width = int(transformer.joint_attention_dim)
        if has_t5:
            self._t5_tokenizer = load_t5_tokenizer(folder, "tokenizer_3", T5_WINDOW)
            self.text_encoders += (load_t5(folder, "text_encoder_3", placement),)
            self.tokenizers += (self._t5_tokenizer.tokenizer,)

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """The prompt as the transformer takes it: tokens (B, L + 256, D) and pooled (B, P1 + P2).

        Above: both CLIPs' penultimate hidden states side by side, filled up with zeros to T5's
        width; below: T5's last hidden states. Pooled: both CLIPs' projected outputs.
        """
        clip, pooled = self.clip_states(prompts)
        clip = F.pad(clip, (0, self._prompt_width - clip.shape[-1]))
        tokens = torch.cat([clip, self._t5_states(prompts).to(clip)], dim=1)
        return PromptEmbeds(tokens, torch.cat(pooled, dim=-1))

    def _t5_states(self, prompts: Sequence[str]) -> Tensor:
        if len(self.text_encoders) < 3:
            return torch.zeros(len(prompts), T5_WINDOW, self._prompt_width, device=self.device)
        return t5_states(self.text_encoders[2], self._t5_tokenizer, prompts, self._placement)

    def conditions(
        self, noisy_latents: Tensor, prompt_embeds: PromptEmbeds, geometry: Tensor | None
    ) -> Mapping[str, Any]:
        """The pooled prompts. What is predicted is the velocity ``e - x_0``."""
        assert prompt_embeds.pooled is not None
        return {"pooled_projections": prompt_embeds.pooled.to(self.device, self.dtype)}
