"""A language model as the text encoder: what is put around a prompt, and its hidden states.

It has the denoiser's type, for it has billions of weights. They are loaded when a prompt is first
encoded: a training whose prompts are all encoded needs none of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from nsync_pipeline.families.clip_tokenizers import require_vocabulary
from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.placement import Placement
from nsync_pipeline.families.weights import load_frozen

TOKENIZER_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")


@dataclass(frozen=True)
class LanguageTokenizer:
    """A language model's tokenizer, and what a prompt is written into."""

    tokenizer: Any
    written: Callable[[Any, str], str]  # of the tokenizer and a prompt: the text that is read
    window: int  # tokens, all of them counted

    @property
    def max_prompt_tokens(self) -> int:
        return self.window - self._count("")

    def prompt_tokens(self, prompt: str) -> int:
        return self._count(prompt) - self._count("")

    def ids(self, prompt: str, fill: bool = False) -> tuple[Tensor, Tensor]:
        """Numbers and attention mask (1, L), cut at the window; with ``fill`` filled up to it."""
        encoded = self.tokenizer(
            self.written(self.tokenizer, prompt),
            padding="max_length" if fill else False,
            max_length=self.window,
            truncation=True,
            return_tensors="pt",
        )
        return encoded.input_ids, encoded.attention_mask

    def _count(self, prompt: str) -> int:
        return len(self.tokenizer(self.written(self.tokenizer, prompt), verbose=False).input_ids)


def load_language_tokenizer(
    folder: PipelineFolder, written: Callable[[Any, str], str], window: int
) -> LanguageTokenizer:
    """That of a pipeline; BaseModelError where it is missing, or has no template that is needed."""
    path = folder.path / "tokenizer"
    require_vocabulary(path)
    with loading_errors(path):
        found = LanguageTokenizer(
            Qwen2Tokenizer.from_pretrained(folder.path, subfolder="tokenizer"), written, window
        )
        if found.max_prompt_tokens < 1:
            raise ValueError(f"what is put around a prompt fills all {window} tokens")
    return found


def chat(thinking: bool) -> Callable[[Any, str], str]:
    """A prompt as what a user says, by the tokenizer's own template."""

    def written(tokenizer: Any, prompt: str) -> str:
        return str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=thinking,
            )
        )

    return written


class LanguageModel:
    """The text encoder of a pipeline, of one of ``kinds``, loaded when it is needed."""

    def __init__(
        self, folder: PipelineFolder, kinds: Mapping[str, Any], placement: Placement
    ) -> None:
        self._folder, self._placement = folder, placement
        self._kind = kinds[str(folder.component("text_encoder"))]
        self._model: Any = None

    @torch.no_grad()
    def states(self, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Hidden states (1, L, D) of ``layers``, where 0 is the embedded tokens."""
        place = self._placement
        if self._model is None:
            self._model = load_frozen(
                self._kind, self._folder, "text_encoder", place.resting_place, place.dtype
            )
        with place.in_use(self._model):
            found = self._model(
                input_ids=ids.to(place.device),
                attention_mask=mask.to(place.device),
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
        return [found[layer] for layer in layers]

    def release(self) -> None:
        """Let its weights go; the next prompt loads them again."""
        self._model = None
        if self._placement.device.type == "cuda":
            torch.cuda.empty_cache()
