"""T5 as a text encoder: its tokenizer, its weights, and what it says of prompts.

It has the denoiser's type: its 4.7 billion weights are too many for more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import T5EncoderModel, T5TokenizerFast

from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import Placement
from nsync_pipeline.families.weights import load_frozen

CLASSES = {"text_encoder": ("T5EncoderModel",), "tokenizer": ("T5TokenizerFast", "T5Tokenizer")}


@dataclass(frozen=True)
class T5Tokenizer:
    """Its tokenizer, and how many tokens the denoiser is told, its end counted."""

    tokenizer: Any
    window: int

    @property
    def max_prompt_tokens(self) -> int:
        return self.window - 1

    def prompt_tokens(self, prompt: str) -> int:
        return len(self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids)


def load_t5_tokenizer(folder: PipelineFolder, name: str, window: int) -> T5Tokenizer:
    with loading_errors(folder.path / name):
        return T5Tokenizer(T5TokenizerFast.from_pretrained(folder.path, subfolder=name), window)


def load_t5(folder: PipelineFolder, name: str, placement: Placement) -> Any:
    return load_frozen(T5EncoderModel, folder, name, placement.resting_place, placement.dtype)


def t5_states(
    t5: Any, tokenizer: T5Tokenizer, prompts: Sequence[str], placement: Placement
) -> Tensor:
    """Its last hidden states (B, window, D), of prompts cut and filled up to the window."""
    encoded = tokenizer.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.window,
        truncation=True,
        return_tensors="pt",
    )
    with placement.in_use(t5):
        return torch.as_tensor(t5(encoded.input_ids.to(placement.device))[0])
