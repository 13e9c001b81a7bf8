"""FLUX.2 klein: two streams, then one; trained by flow matching; Qwen3 reads prompts.

Source: Black Forest Labs, FLUX.2; the conventions are diffusers'.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import Flux2Transformer2DModel
from torch import Tensor
from transformers import Qwen3ForCausalLM

from nsync_pipeline.families.autoencoders import Flux2Autoencoder
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.flow_transformer import LanguageTransformer
from nsync_pipeline.families.language_model import chat
from nsync_pipeline.families.latent_diffusion import JOINT_LORA_TARGETS
from nsync_pipeline.families.noise_schedules import sized_schedule

LORA_TARGETS = (
    *JOINT_LORA_TARGETS,
    "attn.to_qkv_mlp_proj",
    *(f"single_transformer_blocks.{number}.attn.to_out" for number in range(48)),
)  # fmt: skip
"""The attention of both kinds of blocks, which in the second kind holds the feed-forward part."""

WINDOW = 512  # tokens; the prompt is filled up to it, and what fills it up is read, too
LAYERS = (9, 18, 27)
LARGE = 4300  # tokens of a picture from which the steps do not matter


def empirical_mu(settings: Any, tokens: int, steps: int | None) -> float:
    """``mu`` as FLUX.2's own code has it: more of it where few steps draw the picture.

    In training it is that of many steps (200), which is where the model's path itself lies.
    """
    many = 0.00016927 * tokens + 0.45666666
    if steps is None or tokens > LARGE:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333  # of 10 steps
    return many + (many - few) * (steps - 200) / 190


class Flux2Klein(LanguageTransformer):
    """A frozen FLUX.2 klein base; a ``Family``. Its latents are of 16 x 16 pixels."""

    models = "FLUX.2 klein base"
    pipeline_class = "Flux2KleinPipeline"
    base_id = "black-forest-labs/FLUX.2-klein-base-4B"
    language_models: ClassVar = {"Qwen3ForCausalLM": Qwen3ForCausalLM}
    written = staticmethod(chat(thinking=False))
    window = WINDOW
    denoiser_class = Flux2Transformer2DModel
    autoencoder_class = Flux2Autoencoder
    token_side = 1
    noise_schedule_of = partial(sized_schedule, mu=empirical_mu, patch=1)
    lora_targets: tuple[str, ...] = LORA_TARGETS
    architecture: str | None = "flux-2-klein"

    def read(self, prompt: str) -> Tensor:
        """The hidden states of three layers side by side (512, 3 D)."""
        ids, mask = self.tokenizer.ids(prompt, fill=True)
        return torch.cat(self.language_model.states(ids, mask, LAYERS), dim=-1)[0]

    def conditions(
        self, noisy_latents: Tensor, prompt_embeds: PromptEmbeds, geometry: Tensor | None
    ) -> Mapping[str, Any]:
        """Where tokens are: of the prompt on the last axis, of the picture on two others."""
        told = prompt_embeds.tokens.shape[1]
        places = torch.zeros(told, 4, dtype=torch.int64)
        places[:, 3] = torch.arange(told)
        return {
            "txt_ids": places.to(self.device),
            "img_ids": self.grid_positions(noisy_latents, axes=4),
        }
