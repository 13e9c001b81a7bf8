"""T5 as a text encoder: its tokenizer, its weights, and what it says of prompts.

It has the denoiser's type: its 4.7 billion weights are too many for more.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import T5EncoderModel, T5TokenizerFast

from nsync_pipeline.families.clip_tokenizers import PromptTokenizer
from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import Placement
from nsync_pipeline.families.weights import load_frozen

CLASSES = {"text_encoder": ("T5EncoderModel",), "tokenizer": ("T5TokenizerFast", "T5Tokenizer")}


def load_t5_tokenizer(folder: PipelineFolder, name: str, window: int) -> PromptTokenizer:
    with loading_errors(folder.path / name):
        tokenizer = T5TokenizerFast.from_pretrained(folder.path, subfolder=name)
    return PromptTokenizer(tokenizer, window, around=1)  # it marks the end alone


def load_t5(folder: PipelineFolder, name: str, placement: Placement) -> Any:
    return load_frozen(T5EncoderModel, folder, name, placement.resting_place, placement.dtype)


def t5_states(
    t5: Any, tokenizer: PromptTokenizer, prompts: Sequence[str], placement: Placement
) -> Tensor:
    """Its last hidden states (B, window, D), of prompts cut and filled up to the window."""
    ids = tokenizer.padded(prompts)["input_ids"]
    with placement.in_use(t5):
        return torch.as_tensor(t5(ids.to(placement.device))[0])
