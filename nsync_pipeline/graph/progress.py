"""How far a stage is: a bar on a terminal, a line now and then elsewhere, a log line in Dagster.

Whoever else wants to know reads it from a file of the workspace's state (``running``).
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from nsync_pipeline.pace import Pace, shown_speed, shown_time
from nsync_pipeline.stage import Progress as TellProgress
from nsync_pipeline.workspace import Workspace

RUNNING = "running"
FILE_EVERY = 1.0  # seconds

LINE_EVERY = 5.0
"""Seconds between two lines, at first."""

LINE_SHARE = 0.05
"""Of the time gone, where that is longer: hours of work are a hundred lines, not thousands."""


@contextmanager
def shown_progress(
    title: str, tell_dagster: Callable[[str], None] | None, file: Path | None = None
) -> Iterator[TellProgress]:
    """A ``Progress`` for one run of a stage; ``title`` says which.

    ``file`` holds the newest line for as long as the run goes on.
    """
    lines = [] if tell_dagster is None else [_Lines(title, tell_dagster)]
    if file is not None:
        lines.append(_Lines(title, _writer(file), every=FILE_EVERY, share=0.0))
    try:
        with _shown(title, lines) as progress:
            yield progress
    finally:
        if file is not None:
            file.unlink(missing_ok=True)


def progress_file(workspace: Workspace, slot: str) -> Path:
    """Where the run that makes the artefact of ``slot`` says how far it is."""
    return workspace.state / RUNNING / f"{slot}.json"


def running(workspace: Workspace) -> dict[str, str]:
    """What the runs that go on now said last, by slot."""
    lines = {}
    for path in sorted((workspace.state / RUNNING).glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
            os.kill(content["process"], 0)
        except (OSError, ValueError, KeyError):  # it has ended, or was killed
            continue
        lines[path.stem] = str(content["line"])
    return lines


def _writer(file: Path) -> Callable[[str], None]:
    def write(line: str) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps({"process": os.getpid(), "line": line}))
            partial.replace(file)
        except OSError:  # nobody can look, and the work goes on
            return

    return write


@contextmanager
def _shown(title: str, lines: "list[_Lines]") -> Iterator[TellProgress]:
    # On stdout: who runs this through DVC takes stderr to say why it failed.
    console = Console()
    if not console.is_terminal:
        yield _together(*lines, _Lines(title, _print_line))
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"), console=console,
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


class _Paces:
    """A pace for each step of the work."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def told(self, what: str, done: int, total: int, now: float) -> str:
        """``12.5 a second, 41 s left``; empty before that can be said, and at the end."""
        pace = self._paces.setdefault(what, Pace())
        pace.tell(done, now)
        speed, left = pace.speed, pace.left(total)
        if speed is None or left is None or done >= total:
            return ""
        return f"{shown_speed(speed)}, {shown_time(left)} left"


class _Lines:
    """A line at the end of each step of the work, and every few seconds in between."""

    def __init__(
        self,
        title: str,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        every: float = LINE_EVERY,
        share: float = LINE_SHARE,
    ) -> None:
        self._every, self._share = every, share
        self._title = title
        self._write = write
        self._clock = clock
        self._paces = _Paces()
        self._began = self._last = clock()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        pace = self._paces.told(what, done, total, now)
        wait = max(self._every, self._share * (now - self._began))
        if done == total or now - self._last >= wait:
            self._last = now
            self._write(", ".join(filter(None, (f"{self._title}: {what} {done}/{total}", pace))))


class _Bars:
    """A bar for each step of the work."""

    def __init__(self, title: str, bar: Progress) -> None:
        self._title = title
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}
        self._paces = _Paces()

    def __call__(self, what: str, done: int, total: int) -> None:
        pace = self._paces.told(what, done, total, time.monotonic())
        description = f"{self._title}: {what}"
        if description not in self._tasks:
            self._tasks[description] = self._bar.add_task(description, total=total, pace="")
        self._bar.update(self._tasks[description], completed=done, total=total, pace=pace)
