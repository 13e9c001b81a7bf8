"""What is printed, whatever it holds: a terminal shows it, and does nothing that it says."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType  # noqa: TID251
from rich.segment import Segment

from nsync_pipeline.text import ESCAPED, printable_lines

OF_A_BAR = re.compile(r"\r|(?:\n|\x1b\[A)+\Z")
"""How tqdm goes back to the line of its bar: at the start of what it writes, or alone."""


class _Shown:
    """A stream to which all text is written as ``printable_lines``."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = self.rich_proxied_file = stream  # rich moves the cursor by itself

    def write(self, text: str) -> int:
        own = OF_A_BAR.match(text)
        start = own[0] if own else ""
        return self.stream.write(start + printable_lines(text[len(start) :]))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def only_shown() -> Iterator[None]:
    """All that this process prints is escaped where it is not ``printable``, or not known here."""
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)
    sys.stdout, sys.stderr = (cast(TextIO, _Shown(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class ShownConsole(Console):
    """rich's console, which escapes what is not ``printable`` in texts; colours are its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(file=getattr(sys.stdout, "rich_proxied_file", None), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            own = bool(segment.control)
            yield segment if own else Segment(printable_lines(segment.text), segment.style)
