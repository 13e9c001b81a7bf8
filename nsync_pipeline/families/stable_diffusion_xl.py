"""Stable Diffusion XL: two CLIP text encoders, and a UNet that is told the picture's geometry.

Source: Podell et al., arXiv 2307.01952; the conventions are diffusers'.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.latent_diffusion import LatentDiffusion
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import Placement


class StableDiffusionXL(LatentDiffusion):
    """A frozen Stable Diffusion XL; a ``Family``."""

    models = "Stable Diffusion XL"
    pipeline_class = "StableDiffusionXLPipeline"
    base_id = "stabilityai/stable-diffusion-xl-base-1.0"
    components = (
        "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae",
    )  # fmt: skip
    clip_encoders: ClassVar = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }

    def __init__(
        self, folder: PipelineFolder, resolution: int | None, placement: Placement
    ) -> None:
        """Load the pipeline in ``folder``; raises as any family, and for the refiner."""
        super().__init__(folder, resolution, placement)
        self._zeros_for_empty = bool(folder.index.get("force_zeros_for_empty_prompt", True))
        unet: Any = self.denoiser.config
        pooled = int(self.text_encoders[1].config.projection_dim)
        expected = pooled + 6 * int(unet.addition_time_embed_dim or 0)
        found = unet.projection_class_embeddings_input_dim
        if unet.addition_embed_type != "text_time" or found != expected:
            raise BaseModelError(
                f"{self.name}: its UNet takes {found} numbers besides the prompt, and that of "
                f"Stable Diffusion XL takes {expected} (text_time). The refiner is not taken."
            )

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Both encoders' penultimate hidden states side by side (B, L, D1 + D2), float32; and the
        second's projected pooled output (B, P).

        Where the model says so (``force_zeros_for_empty_prompt``), the empty prompt is all zeros,
        in guidance and in caption dropout alike: so it was dropped when the base was trained.
        """
        tokens, (_, pooled) = self.clip_states(prompts)
        if self._zeros_for_empty:
            said = torch.tensor([prompt != "" for prompt in prompts], device=self.device)
            tokens = torch.where(said[:, None, None], tokens, 0.0)
            pooled = torch.where(said[:, None], pooled, 0.0)
        return PromptEmbeds(tokens, pooled)

    def conditions(
        self, noisy_latents: Tensor, prompt_embeds: PromptEmbeds, geometry: Tensor | None
    ) -> Mapping[str, Any]:
        """The pooled prompt, and ``geometry`` (B, 6), diffusers' time ids, in its order."""
        assert prompt_embeds.pooled is not None
        if geometry is None:
            height, width = (side * self.pixels_per_latent for side in noisy_latents.shape[2:])
            whole = torch.tensor([height, width, 0, 0, height, width])
            geometry = whole.expand(len(noisy_latents), 6)
        return {
            "added_cond_kwargs": {
                "text_embeds": prompt_embeds.pooled.to(self.device, self.dtype),
                "time_ids": geometry.to(self.device),  # whole numbers: 1001 is not one in bfloat16
            }
        }
