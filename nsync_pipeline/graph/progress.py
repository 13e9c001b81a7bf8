"""How far a stage is: a bar on a terminal, a line now and then elsewhere, a log line in Dagster.

Whoever else wants to know reads it from a file of the workspace's state (``running``).
"""

import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from nsync_pipeline.files import read_json, write_whole
from nsync_pipeline.pace import Pace, shown_speed, shown_time
from nsync_pipeline.stage import Progress as TellProgress
from nsync_pipeline.terminal import ShownConsole
from nsync_pipeline.workspace import Workspace

RUNNING = "running"
FILE_EVERY = 1.0  # seconds

LINE_EVERY = 5.0  # seconds between two lines, at first
LINE_SHARE = 0.05
"""Of the time gone, where that is longer: hours of work are a hundred lines, not thousands."""


@contextmanager
def shown_progress(
    title: str, tell_dagster: Callable[[str], None] | None, file: Path | None = None
) -> Iterator[TellProgress]:
    """A ``Progress`` for one run of a stage; ``title`` says which.

    ``file`` holds the newest line for as long as the run goes on.
    """
    told: list[TellProgress] = []

    def tell(what: str, done: int, total: int) -> None:
        for one in told:
            one(what, done, total)

    with ExitStack() as until_end:
        if tell_dagster is not None:
            told.append(_Lines(title, tell_dagster))
        if file is not None:
            told.append(_Lines(title, partial(_write_line, file), every=FILE_EVERY, share=0.0))
            until_end.callback(file.unlink, missing_ok=True)
        # On stdout: who runs this through DVC takes stderr to say why it failed.
        console = ShownConsole()
        if console.is_terminal:
            bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}"), console=console,
            )  # fmt: skip
            told.append(_Bars(title, until_end.enter_context(bar)))
        else:
            told.append(_Lines(title, partial(print, flush=True)))
        yield tell


def shown_line(file: Path, say: Callable[[str], None], line: str) -> None:
    """Say a ``line`` that another machine printed; it is the newest of the run in ``file``."""
    _write_line(file, line)
    say(line)


def progress_file(workspace: Workspace, slot: str) -> Path:
    """Where the run that makes the artefact of ``slot`` says how far it is."""
    return workspace.state / RUNNING / f"{slot}.json"


def said_in(file: Path, title: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """``say``, and the line of the run in ``file``, before there is any progress to tell."""

    def say_it(text: str) -> None:
        _write_line(file, f"{title}: {text}")
        say(text)

    return say_it


def running(workspace: Workspace) -> dict[str, str]:
    """What the runs that go on now said last, by slot."""
    lines = {}
    for path in sorted((workspace.state / RUNNING).glob("*.json")):
        try:
            content = read_json(path)
            os.kill(content["process"], 0)
            lines[path.stem] = str(content["line"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue  # it has ended, or was killed
    return lines


def _write_line(file: Path, line: str) -> None:
    with suppress(OSError):  # nobody can look, and the work goes on
        content = json.dumps({"process": os.getpid(), "line": line})
        write_whole(file, content, lasting=False)


class Watch:
    """Shows the runs under way: on a terminal in a line each, else by a line now and then."""

    def __init__(self, workspace: Workspace, clock: Callable[[], float] = time.monotonic) -> None:
        self._workspace, self._clock = workspace, clock
        self._live = Live(console=ShownConsole(), auto_refresh=False, transient=True)
        self._said: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> "Watch":
        if self._live.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def look(self, status: str, slots: Collection[str] | None = None, said: bool = False) -> None:
        """Show what the runs say, of ``slots`` or of all, and ``status``.

        Where ``said``, lines tell the status already: it stands beneath the runs on a terminal.
        """
        lines = {
            s: line for s, line in running(self._workspace).items() if slots is None or s in slots
        }
        if self._live.is_started:
            text = Text("\n".join([*lines.values(), status]), no_wrap=True, overflow="ellipsis")
            self._live.update(text, refresh=True)
            return
        for slot, line in {**lines, **({} if said else {"": status})}.items():
            before, at = self._said.get(slot, ("", 0.0))
            now = self._clock()
            if line != before and (not slot or before == "" or now - at >= LINE_EVERY):
                self._said[slot] = line, now
                print(line, flush=True)


def _pace(paces: dict[str, Pace], what: str, done: int, total: int, now: float) -> str:
    """``12.5 a second, 41 s left``; empty before that can be said, and at the end.

    ``paces`` has one for each step of the work.
    """
    pace = paces.setdefault(what, Pace())
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
        self._title, self._write, self._clock = title, write, clock
        self._every, self._share = every, share
        self._paces: dict[str, Pace] = {}
        self._began = self._last = clock()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        pace = _pace(self._paces, what, done, total, now)
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
        self._paces: dict[str, Pace] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        pace = _pace(self._paces, what, done, total, time.monotonic())
        description = f"{self._title}: {what}"
        if description not in self._tasks:
            self._tasks[description] = self._bar.add_task(description, total=total, pace="")
        self._bar.update(self._tasks[description], completed=done, total=total, pace=pace)


@dataclass(frozen=True)
class DagsterLine:
    """The Dagster run this process works for."""

    run_id: str
    say: Callable[[str], None]
    """Writes a line to the run's log."""


@contextmanager
def dagster_line() -> Iterator[DagsterLine | None]:
    """The open line; None outside of Dagster."""
    if DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        yield None
        return
    with open_dagster_pipes() as pipes:
        yield DagsterLine(pipes.run_id, pipes.log.info)
