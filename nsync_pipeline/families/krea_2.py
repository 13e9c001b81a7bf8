"""Krea 2: one stream, trained by flow matching; layers of Qwen3-VL, mixed, are the prompt.

The conventions are diffusers'.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import Krea2Transformer2DModel
from torch import Tensor
from transformers import Qwen3VLModel

from nsync_pipeline.families.autoencoders import QwenAutoencoder
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.flow_transformer import LanguageTransformer
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.qwen_image import ANSWER, SYSTEM, SYSTEM_TOKENS

LORA_TARGETS = (
    "img_in", "final_layer.linear", "to_q", "to_k", "to_v", "to_out.0", "to_gate", "ff.up",
    "ff.down", "text_fusion.projector", "txt_in.linear_1", "txt_in.linear_2",
    "time_embed.linear_1", "time_embed.linear_2", "time_mod_proj",
)  # fmt: skip
"""What its authors recommend for styles."""

ANSWER_TOKENS = 5
WINDOW = 512 + SYSTEM_TOKENS - ANSWER_TOKENS  # tokens before the answer's own
LAYERS = (2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35)


def described(tokenizer: Any, prompt: str) -> str:
    return SYSTEM + prompt


class Krea2(LanguageTransformer):
    """A frozen Krea 2 Raw; a ``Family``.

    Its pipeline fills a prompt up to 512 tokens, which no other token sees and which take no place;
    here they are left out.
    """

    models = "Krea 2 Raw"
    pipeline_class = "Krea2Pipeline"
    base_id = "krea/Krea-2-Raw"
    language_models: ClassVar = {"Qwen3VLModel": Qwen3VLModel}
    written = staticmethod(described)
    window = WINDOW
    denoiser_class = Krea2Transformer2DModel
    autoencoder_class = QwenAutoencoder
    packed = True
    lora_targets: tuple[str, ...] = LORA_TARGETS
    architecture: str | None = "krea-2"

    def load_text_encoders(self, folder: PipelineFolder) -> None:
        super().load_text_encoders(folder)
        self._layers = tuple(folder.index.get("text_encoder_select_layers") or LAYERS)

    @classmethod
    def numbers_a_token(cls, config: Mapping[str, Any]) -> int:
        return int(config["text_hidden_dim"] * config["num_text_layers"])

    def read(self, prompt: str) -> Tensor:
        """The hidden states of several layers (L, N, D) of what comes after the system's words."""
        answer = self.tokenizer.tokenizer(ANSWER, return_tensors="pt").input_ids
        ids = torch.cat([self.tokenizer.ids(prompt)[0], answer], dim=1)
        states = self.language_model.states(ids, torch.ones_like(ids), self._layers)
        return torch.stack(states, dim=2)[0, SYSTEM_TOKENS:]

    def conditions(
        self, noisy_latents: Tensor, prompt_embeds: PromptEmbeds, geometry: Tensor | None
    ) -> Mapping[str, Any]:
        """Where tokens are, all of the prompt's in one place; and which of them there are."""
        told = prompt_embeds.tokens.shape[1]
        origin = torch.zeros(told, 3, dtype=torch.int64, device=self.device)
        return {
            "position_ids": torch.cat([origin, self.grid_positions(noisy_latents, axes=3)]),
            "encoder_attention_mask": self.mask_of(prompt_embeds),
        }
