"""FLUX.1 dev: two streams, then one; trained by flow matching; CLIP and T5 read prompts.

It is distilled from guidance: the scale is told to the denoiser, and a step is one pass. Source:
Black Forest Labs, FLUX.1; the conventions are diffusers'.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel

from nsync_pipeline.families.clip_tokenizers import PromptTokenizer
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.flow_transformer import FlowTransformer
from nsync_pipeline.families.latent_diffusion import JOINT_LORA_TARGETS
from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.t5 import CLASSES, load_t5, load_t5_tokenizer, t5_states
from nsync_pipeline.files import read_json

WINDOW = 512  # tokens of T5, its end counted: the pipeline's default
IN_TRAINING = 1.0  # the guidance it is told there, as its trainers tell it


def is_told_guidance(folder: PipelineFolder) -> bool:
    """Whether the denoiser is dev's: schnell, which draws in few steps, is told none."""
    file = folder.path / "transformer" / "config.json"
    if not file.is_file():  # of a hub model it may not be here yet: the loaded one is looked at
        return True
    with loading_errors(file):
        return bool(read_json(file).get("guidance_embeds"))


class Flux1(FlowTransformer):
    """A frozen FLUX.1 dev; a ``Family``.

    A prompt must fit T5; of what CLIP says only the sum is told, and it is cut.
    """

    models = "FLUX.1 dev"
    pipeline_class = "FluxPipeline"
    base_id = "black-forest-labs/FLUX.1-dev"
    components = (
        "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer",
        "vae",
    )  # fmt: skip
    counted_by = ("tokenizer_2",)
    clip_encoders: ClassVar = {"text_encoder": CLIPTextModel}
    denoiser_class = FluxTransformer2DModel
    packed = True
    lora_targets: tuple[str, ...] = JOINT_LORA_TARGETS
    architecture: str | None = "flux-1-dev"
    told_guidance: float | None = IN_TRAINING
    tokenizer: PromptTokenizer

    @classmethod
    def required_of_prompts(cls) -> dict[str, Sequence[str]]:
        second = {f"{name}_2": kinds for name, kinds in CLASSES.items()}
        return {**super().required_of_prompts(), **second}

    @classmethod
    def load_tokenizer(cls, folder: PipelineFolder) -> PromptTokenizer:
        return load_t5_tokenizer(folder, "tokenizer_2", WINDOW)

    def load_text_encoders(self, folder: PipelineFolder) -> None:
        super().load_text_encoders(folder)
        self.text_encoders += (load_t5(folder, "text_encoder_2", self._placement),)
        self.tokenizers += (self.tokenizer.tokenizer,)

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """T5's last hidden states (B, 512, D), and CLIP's pooled output (B, P)."""
        clip, t5 = self.text_encoders
        ids = self.clip_tokenizers[0].padded(prompts)["input_ids"].to(self.device)
        with self._placement.in_use(clip):
            pooled = clip(ids).pooler_output
        return PromptEmbeds(t5_states(t5, self.tokenizer, prompts, self._placement), pooled)

    def conditions(
        self, noisy_latents: Tensor, prompt_embeds: PromptEmbeds, geometry: Tensor | None
    ) -> Mapping[str, Any]:
        """The guidance, what CLIP says of the prompts, and where tokens are."""
        assert prompt_embeds.pooled is not None
        assert self.told_guidance is not None
        batch, told = prompt_embeds.tokens.shape[:2]
        return {
            "guidance": torch.full((batch,), self.told_guidance, device=self.device),
            "pooled_projections": prompt_embeds.pooled.to(self.device, self.dtype),
            "txt_ids": torch.zeros(told, 3, device=self.device),
            "img_ids": self.grid_positions(noisy_latents, axes=3),
        }
