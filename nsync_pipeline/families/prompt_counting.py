"""Counting a prompt's tokens as the base model does, without its weights and without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsync_pipeline.families.clip_tokenizers import load_tokenizers
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.pipeline_folder import find_pipeline, with_components

if TYPE_CHECKING:
    from nsync_pipeline.families.family import TokenCounter

CLIP_TOKENIZERS = {
    "StableDiffusionPipeline": 1, "StableDiffusionXLPipeline": 2, "StableDiffusion3Pipeline": 2,
}  # fmt: skip
"""How many CLIPs read a prompt, by pipeline: known here so that no family is imported to count."""


def tokenizer_of(config: BaseModelConfig) -> TokenCounter:
    """The tokenizers of the base model; raises as ``loading.load_family``."""
    folder = find_pipeline(config)
    count = CLIP_TOKENIZERS.get(str(folder.index.get("_class_name")))
    if count is None or config.family != "auto" or folder.checkpoint_kind is not None:
        from nsync_pipeline.families.loading import find_base  # says what does not fit, and why

        family, folder = find_base(config)
        count = len(family.clip_encoders)
        if family.counted_by:
            return family.load_tokenizer(with_components(folder, family.counted_by, weights=False))
    numbers = ["", *(f"_{number}" for number in range(2, count + 1))]
    components = [f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in numbers]
    return load_tokenizers(with_components(folder, components, weights=False), count)
