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
from nsync_pipeline.families.flow_transformer import (
    TIMES,
    FlowTransformer,
    grid_positions,
    packed,
    unpacked,
)
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


class Krea2(FlowTransformer):
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

    def predict(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: PromptEmbeds,
        geometry: Tensor | None = None,
    ) -> Tensor:
        height, width = (side // 2 for side in noisy_latents.shape[2:])
        tokens, mask = self.told(prompt_embeds)
        origin = torch.zeros(tokens.shape[1], 3, dtype=torch.int64, device=self.device)
        found = self.denoiser(
            hidden_states=packed(noisy_latents.to(self.device, self.dtype)),
            encoder_hidden_states=tokens,
            timestep=timesteps.to(self.device) / TIMES,
            position_ids=torch.cat([origin, grid_positions(height, width, 3, self.device)]),
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        return unpacked(self.in_full(found), noisy_latents)
