"""Stable Diffusion 1 and 2, and what has their layout: one CLIP text encoder, one UNet, one VAE."""

from collections.abc import Sequence
from typing import ClassVar

from transformers import CLIPTextModel

from nsync_pipeline.families.family import PromptEmbeds
from nsync_pipeline.families.latent_diffusion import LatentDiffusion


class StableDiffusion(LatentDiffusion):
    """A frozen Stable Diffusion; a ``Family``."""

    models = "Stable Diffusion 1 or 2"
    pipeline_class = "StableDiffusionPipeline"
    base_id = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    components = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
    clip_encoders: ClassVar = {"text_encoder": CLIPTextModel}
    checkpoint_resolution = 512  # 2.x in its second form has 768

    def embed_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """The text encoder's last hidden states (B, L, D), float32, as the pipeline takes them."""
        (text_encoder,) = self.text_encoders
        encoded = self.clip_tokenizers[0].padded(prompts)
        mask = None
        if getattr(text_encoder.config, "use_attention_mask", False):
            mask = encoded["attention_mask"].to(self.device)
        ids = encoded["input_ids"].to(self.device)
        with self._placement.in_use(text_encoder):
            return PromptEmbeds(text_encoder(ids, attention_mask=mask)[0])
