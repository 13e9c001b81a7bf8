"""How far a stage is: a bar on a terminal, a line now and then elsewhere, a log line in Dagster."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from nsync_pipeline.stages.context import Progress as TellProgress

LINE_EVERY = 5.0  # seconds


@contextmanager
def shown_progress(
    title: str, tell_dagster: Callable[[str], None] | None
) -> Iterator[TellProgress]:
    """A ``Progress`` for one run of a stage; ``title`` says which."""
    lines = [] if tell_dagster is None else [_Lines(title, tell_dagster)]
    # On stdout: who runs this through DVC takes stderr to say why it failed.
    console = Console()
    if not console.is_terminal:
        yield _together(*lines, _Lines(title, _print_line))
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
    with bar:
        yield _together(*lines, _Bars(title, bar))


def _print_line(line: str) -> None:
    print(line, flush=True)


def _together(*told: TellProgress) -> TellProgress:
    def tell(what: str, done: int, total: int) -> None:
        for one in told:
            one(what, done, total)

    return tell


class _Lines:
    """A line at the end of each step of the work, and every few seconds in between."""

    def __init__(self, title: str, write: Callable[[str], None]) -> None:
        self._title = title
        self._write = write
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._last >= LINE_EVERY:
            self._last = time.monotonic()
            self._write(f"{self._title}: {what} {done}/{total}")


class _Bars:
    """A bar for each step of the work."""

    def __init__(self, title: str, bar: Progress) -> None:
        self._title = title
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        description = f"{self._title}: {what}"
        if description not in self._tasks:
            self._tasks[description] = self._bar.add_task(description, total=total)
        self._bar.update(self._tasks[description], completed=done, total=total)
