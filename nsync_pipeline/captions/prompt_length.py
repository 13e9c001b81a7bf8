"""Captions as long as the text encoder takes them, with the style's phrase behind them.

A prompt that is too long loses its end, and at its end stands the style: the caption is shortened
instead.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

DANGLING = frozenset(
    (
        "a", "an", "the", "its", "their", "his", "her", "and", "or", "of", "in", "on", "at", "as",
        "by", "with", "from", "for", "like", "to", "into", "onto", "under", "over", "above",
        "below", "near", "beside", "behind", "between", "against",
    )
)  # fmt: skip
"""Words that a caption cannot end with."""


@dataclass(frozen=True)
class FittedCaption:
    """A caption that fits."""

    caption: str  # empty where not even one word fits
    lost: str  # what was cut off; empty where all fits


def fit(caption: str, prompt_tokens: Callable[[str], int], most: int) -> FittedCaption:
    """The longest start of ``caption``, in whole words, whose prompt has at most ``most`` tokens.

    Articles, prepositions and punctuation that would end the shortened caption are cut off too.
    """
    if prompt_tokens(caption) <= most:
        return FittedCaption(caption, "")
    words = caption.split()
    kept = len(words) - 1
    while kept > 0 and prompt_tokens(without_dangling_end(words[:kept])) > most:
        kept -= 1
    short = without_dangling_end(words[:kept])
    return FittedCaption(short, " ".join(words[len(short.split()) :]))


def without_dangling_end(words: list[str]) -> str:
    """``words`` as a text, without articles, prepositions and punctuation at its end."""
    end = len(words)
    while end and re.sub(r"\W", "", words[end - 1]).lower() in DANGLING | {""}:
        end -= 1
    return re.sub(r"[\s,;:.([{/-]+$", "", " ".join(words[:end]))
