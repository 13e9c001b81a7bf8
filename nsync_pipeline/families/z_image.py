"""Z-Image: one stream of picture and prompt tokens, trained by flow matching; Qwen3 reads prompts.

Source: Z-Image (arXiv 2511.22699); the conventions are diffusers'.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor
from transformers import Qwen3ForCausalLM, Qwen3Model

from nsync_pipeline.contrast.branch_copies import MIXED_ROWS
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.flow_transformer import TIMES, LanguageTransformer
from nsync_pipeline.families.language_model import chat
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import Placement

LORA_TARGETS = (
    "attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0",
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
)  # fmt: skip
"""Attention and feed-forward of all blocks, as its trainers adapt them."""

WINDOW = 512  # tokens of the prompt and what is put around it: the pipeline's default


class ZImage(LanguageTransformer):
    """A frozen Z-Image; a ``Family``."""

    models = "Z-Image"
    pipeline_class = "ZImagePipeline"
    base_id = "Tongyi-MAI/Z-Image"
    language_models: ClassVar = {"Qwen3Model": Qwen3Model, "Qwen3ForCausalLM": Qwen3ForCausalLM}
    written = staticmethod(chat(thinking=True))
    window = WINDOW
    denoiser_class = ZImageTransformer2DModel
    lora_targets: tuple[str, ...] = LORA_TARGETS
    architecture: str | None = "z-image"

    def __init__(
        self, folder: PipelineFolder, resolution: int | None, placement: Placement
    ) -> None:
        """Load the pipeline in ``folder``; raises as any family."""
        super().__init__(folder, resolution, placement)
        # Prompts go through it in a row, each filled up to a multiple of 32 tokens.
        setattr(self.denoiser.cap_embedder[1], MIXED_ROWS, True)  # type: ignore[index]

    @classmethod
    def patch_of(cls, config: Any) -> int:
        return int(config.all_patch_size[0])

    @classmethod
    def numbers_a_token(cls, config: Mapping[str, Any]) -> int:
        return int(config["cap_feat_dim"])

    def read(self, prompt: str) -> Tensor:
        """The last hidden states but one (L, D) of the prompt in Qwen's own template."""
        ids, mask = self.tokenizer.ids(prompt)
        return self.language_model.states(ids, mask, (-2,))[0][0]

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        """The velocity: the denoiser counts time from noise to picture, and gives ``x_0 - e``."""
        frames = noisy_latents.to(self.device, self.dtype)[:, :, None]
        times = (TIMES - timesteps.to(self.device)) / TIMES
        prompts = [row.to(self.device, self.dtype) for row in prompt_embeds.each()]
        found = self.denoiser(list(frames.unbind(0)), times, prompts, return_dict=False)[0]
        return -self.in_full(torch.stack(found)[:, :, 0])
