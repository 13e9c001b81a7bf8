"""The tokenizers of CLIP and T5: the one place where prompts become token numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import CLIPTokenizer

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.files import read_json

if TYPE_CHECKING:
    from torch import Tensor


def placeholder_tokens(word: str, count: int) -> tuple[str, ...]:
    """The tokens that ``word`` stands for, named as diffusers names them."""
    return (word, *(f"{word}_{number}" for number in range(1, count)))


def written_out(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """``prompts`` with each such word written out, as diffusers' pipelines do.

    The words are those among the tokenizer's added tokens that ``<word>_1`` was added for too.
    """
    added = tokenizer.get_added_vocab()
    whole = list(prompts)
    for word in (token for token in added if f"{token}_1" in added):
        tokens = [word]
        while f"{word}_{len(tokens)}" in added:
            tokens.append(f"{word}_{len(tokens)}")
        whole = [prompt.replace(word, " ".join(tokens)) for prompt in whole]
    return whole


TOKENIZER_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")
VOCABULARIES = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True)
class PromptTokenizer:
    """A tokenizer, and how many of its tokens the text encoder behind it takes."""

    tokenizer: Any
    window: int  # start and end counted
    around: int = 2  # tokens that are put around a prompt: start and end

    @property
    def max_prompt_tokens(self) -> int:
        return self.window - self.around

    def prompt_tokens(self, prompt: str) -> int:
        (whole,) = written_out(self.tokenizer, [prompt])
        return len(self.tokenizer(whole, add_special_tokens=False, verbose=False).input_ids)

    def padded(self, prompts: Sequence[str]) -> "dict[str, Tensor]":
        """``input_ids`` and ``attention_mask`` (B, window), cut and filled up to the window."""
        encoded = self.tokenizer(
            written_out(self.tokenizer, prompts),
            padding="max_length",
            max_length=self.window,
            truncation=True,
            return_tensors="pt",
        )
        return {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}


@dataclass(frozen=True)
class PromptTokenizers:
    """Those of a base model, one a text encoder: a prompt must fit them all."""

    each: tuple[PromptTokenizer, ...]

    @property
    def max_prompt_tokens(self) -> int:
        """The most tokens a prompt may have, start and end not counted."""
        return min(tokenizer.max_prompt_tokens for tokenizer in self.each)

    def prompt_tokens(self, prompt: str) -> int:
        """The most that one of them counts, start and end not counted; nothing is cut off."""
        return max(tokenizer.prompt_tokens(prompt) for tokenizer in self.each)


def require_vocabulary(folder: Path) -> None:
    """BaseModelError where there is none: transformers would go on with one of two tokens."""
    if not any((folder / file).is_file() for file in VOCABULARIES):
        raise BaseModelError(f"{folder} has none of {', '.join(VOCABULARIES)}.")


def load_tokenizers(folder: PipelineFolder, count: int) -> PromptTokenizers:
    """The first ``count`` tokenizers of a pipeline (tokenizer, tokenizer_2), or BaseModelError."""
    suffixes = [""] + [f"_{number}" for number in range(2, count + 1)]
    return PromptTokenizers(tuple(_load(folder, suffix) for suffix in suffixes))


def _load(folder: PipelineFolder, suffix: str) -> PromptTokenizer:
    name = f"tokenizer{suffix}"
    require_vocabulary(folder.path / name)
    with loading_errors(folder.path / name):
        tokenizer = CLIPTokenizer.from_pretrained(folder.path, subfolder=name)
    settings_file = folder.path / f"text_encoder{suffix}" / "config.json"
    with loading_errors(settings_file.parent):
        positions = int(read_json(settings_file)["max_position_embeddings"])
    return PromptTokenizer(tokenizer, min(int(tokenizer.model_max_length), positions))
