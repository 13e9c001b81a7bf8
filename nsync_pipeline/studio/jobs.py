"""What the studio has started: one process of the engine at a time of each kind, with its log.

The studio schedules nothing. It starts ``nsync make`` (or what asks Dagster for the same, where
Dagster runs), which outlives it: a studio that is started anew finds it. What is made meanwhile,
and by whom, the workspace says (``graph``).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from nsync_pipeline.errors import NotTextError, UserError, WorkspaceBusyError
from nsync_pipeline.files import read_json, write_whole
from nsync_pipeline.graph.locks import is_held
from nsync_pipeline.graph.processes import last_words
from nsync_pipeline.text import require_text
from nsync_pipeline.workspace import Workspace

NSYNC = (sys.executable, "-m", "nsync_pipeline.cli")
# The shell waits for the command whatever signal ends it, and writes down how it ended.
NOTED = ("/bin/sh", "-c", 'trap : INT TERM; "$@"; echo $? > "$0"')
LOG_SHOWN = 16_000  # bytes
CLOCK = 1.0  # seconds that two readings of when a process began may differ by


class Kind(StrEnum):
    """One at a time of each."""

    MAKE = "make"
    DRAW = "draw"


@dataclass(frozen=True)
class Record:
    """What was started."""

    kind: Kind
    style: str
    title: str  # in words
    command: tuple[str, ...]
    process: int
    began: float  # as the system says of the process


_RECORD = TypeAdapter(Record)


@dataclass(frozen=True)
class Job:
    """What was started last, and how it stands."""

    record: Record
    is_running: bool
    exit_code: int | None  # None while it runs, and where it was killed
    log: str  # its end

    @property
    def problem(self) -> str:
        """What it said last, where it failed."""
        if self.is_running or self.exit_code == 0:
            return ""
        text = last_words(self.log)
        return "" if text.startswith("Aborted") else text or "It was ended."


class Jobs:
    """The jobs of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._folder = workspace.state / "studio" / "jobs"
        self._own: dict[Kind, subprocess.Popen[bytes]] = {}

    def job(self, kind: Kind) -> Job | None:
        """The one that runs, or the last one; None where there was none."""
        if kind in self._own:
            self._own[kind].poll()  # so that one that has ended is no zombie
        try:
            record = _RECORD.validate_python(read_json(self._file(kind, "json")))
        except (OSError, ValueError):
            return None
        code = _number(self._file(kind, "rc"))
        is_running = code is None and _is_alive(record)
        return Job(record, is_running, code, _end_of(self._file(kind, "log")))

    def running(self, kind: Kind) -> Job | None:
        job = self.job(kind)
        return job if job is not None and job.is_running else None

    def start(self, kind: Kind, style: str, title: str, command: Sequence[str]) -> None:
        """Start ``command`` in the workspace, apart from this process.

        Raises:
            WorkspaceBusyError: one of this kind runs already.
            UserError: what was typed into it is no text.
        """
        for part in command:
            try:
                require_text(part)
            except NotTextError as error:
                raise UserError(f"What was typed {error}.") from error
        if (busy := self.running(kind)) is not None:
            raise WorkspaceBusyError(f"{busy.record.title} is under way: stop it, or wait.")
        self._folder.mkdir(parents=True, exist_ok=True)
        code = self._file(kind, "rc")
        code.unlink(missing_ok=True)
        with self._file(kind, "log").open("wb") as log:
            process = subprocess.Popen(
                [*NOTED, str(code), *command], cwd=self._workspace.root, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"}, preexec_fn=_listen_to_signals,
            )  # fmt: skip
        self._own[kind] = process
        began = psutil.Process(process.pid).create_time()
        record = Record(kind, style, title, tuple(command), process.pid, began)
        write_whole(self._file(kind, "json"), json.dumps(asdict(record)))

    def stop(self, kind: Kind) -> bool:
        """Have the one that runs end; what it was at goes on from there when it is started again.

        Gives whether there was one.
        """
        job = self.running(kind)
        if job is None:
            return False
        os.killpg(job.record.process, signal.SIGINT)
        for process in self._stages_of(job.record.style):
            os.kill(process, signal.SIGINT)
        return True

    def wait(self, kind: Kind, seconds: float) -> bool:
        """Whether none of this kind runs any more, within ``seconds``."""
        limit = time.monotonic() + seconds
        while (still := self.running(kind)) is not None and time.monotonic() < limit:
            time.sleep(0.05)
        return still is None

    def _stages_of(self, style: str) -> list[int]:
        """The processes at this style's artefacts where Dagster started them for the job."""
        if not dagster_runs(self._workspace):
            return []
        found = []
        for path in (self._workspace.state / "running").glob("*.json"):
            if style in path.stem.split("-"):
                try:
                    found.append(int(read_json(path)["process"]))
                except (OSError, ValueError, KeyError):
                    continue
        return [process for process in found if psutil.pid_exists(process)]

    def _file(self, kind: Kind, ending: str) -> Path:
        return self._folder / f"{kind}.{ending}"


def dagster_runs(workspace: Workspace) -> bool:
    """Whether the pages of ``nsync ui`` (or a demo) have Dagster's daemon running here."""
    return is_held(workspace.lock("dagster-daemon")) and find_spec("nsync_assets") is not None


def making(
    workspace: Workspace, style: str, variants: Sequence[str], seeds: Sequence[int]
) -> tuple[str, ...]:
    """The command that makes ``style``: by Dagster where it runs, else by ``nsync make``."""
    chosen = [part for variant in variants for part in ("--variant", variant)]
    chosen += [part for seed in seeds for part in ("--training-seed", str(seed))]
    if dagster_runs(workspace):
        return (sys.executable, "-m", "nsync_assets.demo", "--style", style, *chosen)
    return (*NSYNC, "make", style, *chosen)


def _listen_to_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _is_alive(record: Record) -> bool:
    try:
        process = psutil.Process(record.process)
        same = abs(process.create_time() - record.began) < CLOCK
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_SHOWN))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
