"""How long a caption is in the base model's tokens, where its tokenizer is on this machine.

Loading it takes seconds, so it is loaded in the background when captions are first looked at.
"""

import threading
from collections.abc import Callable

from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.errors import UserError
from nsync_pipeline.families.config import BaseModelConfig

Counter = tuple[Callable[[str], int], int]  # of the longer prompt of a caption; that are taken


class TokenCounts:
    """The tokenizer of the base model that was asked for last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: str | None = None
        self._tokenizers: object | None = None

    def prepare(self, base: BaseModelConfig) -> None:
        """Begin to load it, unless that was done."""
        with self._lock:
            if self._of == base.model_dump_json():
                return
            self._of, self._tokenizers = base.model_dump_json(), None
        threading.Thread(target=self._load, args=(base,), daemon=True).start()

    def _load(self, base: BaseModelConfig) -> None:
        from nsync_pipeline.doctor.base_shapes import local_copy
        from nsync_pipeline.families.prompt_counting import tokenizer_of

        try:
            here = local_copy(base)  # nothing is downloaded for a page
            found = tokenizer_of(here) if here is not None else None
        except UserError:
            found = None
        with self._lock:
            if self._of == base.model_dump_json():
                self._tokenizers = found

    def of(self, base: BaseModelConfig, *styles: str) -> Counter | None:
        """For captions that are followed by one of ``styles``; None where it is not at hand."""
        with self._lock:
            found = self._tokenizers if self._of == base.model_dump_json() else None
        if found is None:
            return None
        counter = found

        def tokens(caption: str) -> int:
            count: Callable[[str], int] = counter.prompt_tokens  # type: ignore[attr-defined]
            return max(count(styled_prompt(caption, style)) for style in styles)

        return tokens, int(counter.max_prompt_tokens)  # type: ignore[attr-defined]
