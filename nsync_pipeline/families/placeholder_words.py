"""A word of a prompt that stands for several tokens: ``<sks>`` for ``<sks> <sks>_1 <sks>_2``."""

from collections.abc import Sequence
from typing import Any


def placeholder_tokens(word: str, count: int) -> tuple[str, ...]:
    """The tokens that ``word`` stands for, named as diffusers names them."""
    return (word, *(f"{word}_{number}" for number in range(1, count)))


def written_out(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """``prompts`` with each such word written out, as diffusers' pipelines do.

    The words are those among the tokenizer's added tokens that ``<word>_1`` was added for too.
    """
    added = tokenizer.get_added_vocab()
    words = [token for token in added if f"{token}_1" in added]
    whole = list(prompts)
    for word in words:
        tokens = [word]
        while f"{word}_{len(tokens)}" in added:
            tokens.append(f"{word}_{len(tokens)}")
        whole = [prompt.replace(word, " ".join(tokens)) for prompt in whole]
    return whole
