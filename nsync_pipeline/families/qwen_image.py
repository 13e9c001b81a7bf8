"""Qwen-Image: two streams, trained by flow matching; Qwen2.5-VL reads prompts.

Source: Qwen-Image (arXiv 2508.02324); the conventions are diffusers'.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import QwenImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from nsync_pipeline.families.autoencoders import QwenAutoencoder
from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.flow_transformer import LanguageTransformer, as_latents, as_tokens
from nsync_pipeline.families.latent_diffusion import JOINT_LORA_TARGETS

LORA_TARGETS = (
    *JOINT_LORA_TARGETS,
    "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2",
)  # fmt: skip
"""Attention and feed-forward of both streams, as its trainers adapt them."""

SYSTEM = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
SYSTEM_TOKENS = 34  # of the template, which the denoiser is not told
WINDOW = 1024  # tokens that it is told


def described(tokenizer: Any, prompt: str) -> str:
    return SYSTEM + prompt + ANSWER


class QwenImage(LanguageTransformer):
    """A frozen Qwen-Image; a ``Family``."""

    models = "Qwen-Image"
    pipeline_class = "QwenImagePipeline"
    base_id = "Qwen/Qwen-Image"
    language_models: ClassVar = {
        "Qwen2_5_VLForConditionalGeneration": Qwen2_5_VLForConditionalGeneration
    }
    written = staticmethod(described)
    window = WINDOW + SYSTEM_TOKENS
    denoiser_class = QwenImageTransformer2DModel
    autoencoder_class = QwenAutoencoder
    packed = True
    lora_targets: tuple[str, ...] = LORA_TARGETS
    architecture: str | None = "qwen-image"

    def read(self, prompt: str) -> Tensor:
        """The last hidden states (L, D) of what comes after the system's words.

        Its authors guide by a space where others guide by nothing.
        """
        ids, mask = self.tokenizer.ids(prompt or " ")
        return self.language_model.states(ids, mask, (-1,))[0][0, SYSTEM_TOKENS:]

    def conditions(
        self, noisy_latents: Tensor, prompt_embeds: PromptEmbeds, geometry: Tensor | None
    ) -> Mapping[str, Any]:
        """The picture's size in tokens, and which of the prompt's there are."""
        batch = len(prompt_embeds)
        height, width = (side // self.token_side for side in noisy_latents.shape[2:])
        return {
            "encoder_hidden_states_mask": self.mask_of(prompt_embeds),
            "img_shapes": [[(1, height, width)]] * batch,
        }

    def guided(self, empty: Tensor, prompted: Tensor, scale: float) -> Tensor:
        """Each token as long as it is without guidance."""
        both = (prompted, super().guided(empty, prompted, scale))
        own, found = (as_tokens(latents, self.token_side) for latents in both)
        lengths = [tokens.norm(dim=-1, keepdim=True) for tokens in (own, found)]
        return as_latents(found * (lengths[0] / lengths[1]), empty, self.token_side)
