"""How long a caption is in the base model's tokens, where its tokenizer is on this machine.

Loading it takes seconds, so it is loaded in the background when captions are first looked at.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.errors import UserError
from nsync_pipeline.families.config import BaseModelConfig

if TYPE_CHECKING:
    from nsync_pipeline.families.family import TokenCounter

Counter = tuple[Callable[[str], int], int]  # of the longer prompt of a caption; that are taken


class TokenCounts:
    """The tokenizers of the base models that were asked for."""

    def __init__(self) -> None:
        self._of: dict[str, TokenCounter | None] = {}  # None: it is not there, or not yet

    def prepare(self, base: BaseModelConfig) -> None:
        """Begin to load it, unless that was done."""
        key = base.model_dump_json()
        if key not in self._of:
            self._of[key] = None
            threading.Thread(target=self._load, args=(key, base), daemon=True).start()

    def _load(self, key: str, base: BaseModelConfig) -> None:
        from nsync_pipeline.doctor.base_shapes import local_copy
        from nsync_pipeline.families.prompt_counting import tokenizer_of

        with suppress(UserError):
            if (here := local_copy(base)) is not None:  # nothing is downloaded for a page
                self._of[key] = tokenizer_of(here)

    def of(self, base: BaseModelConfig, *styles: str) -> Counter | None:
        """For captions that are followed by one of ``styles``; None where it is not at hand."""
        counter = self._of.get(base.model_dump_json())
        if counter is None:
            return None

        def tokens(caption: str) -> int:
            return max(counter.prompt_tokens(styled_prompt(caption, style)) for style in styles)

        return tokens, counter.max_prompt_tokens
