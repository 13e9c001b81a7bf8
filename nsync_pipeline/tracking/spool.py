"""The local record every event of a run is appended to before anything is sent.

One JSONL file a run, in ``<tracking>/spool``: the first line says which MLflow run it is, every
further line is one event. Appending is one ``write`` to a local file, so a run never waits for a
server. How much of a file is delivered is kept beside it in ``.sent``. The writer holds the file's
lock while it lives: that is how a run that goes on is told from one that was killed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

Event = Mapping[str, Any]
SPOOL_NAME = re.compile(r"(?P<created>\d{20})\.(?P<slot>[^.]+\.[^.]+\.[^.]+)\.(?P<key>\w+)\.jsonl")


@dataclass(frozen=True)
class RunHeader:
    """Which MLflow run the events of a file belong to."""

    uri: str
    """The tracking server it was meant for when it began."""
    experiment: str
    name: str
    match: Mapping[str, str]
    """Tags that find the run; where none has them, it is made."""
    tags: Mapping[str, str]
    """Set when the run is made, besides ``match``."""
    started: int
    """Milliseconds since 1970."""
    owner: bool
    """The run is this file's own: its status is set by it. Otherwise the file only adds to it."""


class SpoolWriter:
    """Appends events to one file; holds its lock until closed."""

    def __init__(self, path: Path, header: RunHeader | None) -> None:
        """``header`` for a new file, None to go on with one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = writer_lock(path)
        # The courier tries the lock for an instant now and then: that is not another writer.
        self._lock.acquire(timeout=5)
        torn = path.is_file() and not path.read_bytes().endswith(b"\n")
        self._file = path.open("ab", buffering=0)
        if torn:  # the last writer was cut off inside a line
            self._file.write(b"\n")
        if header is not None:
            self.append({"kind": "header", **asdict(header)})

    def append(self, event: Event) -> None:
        self._file.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def __enter__(self) -> "SpoolWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def writer_lock(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".lock"))


def is_alive(path: Path) -> bool:
    """Whether a process is writing the file now."""
    try:
        # Not at once: another process may be asking the same this instant.
        with writer_lock(path).acquire(timeout=0.1, poll_interval=0.02):
            return False
    except Timeout:
        return True


def spool_files(spool: Path, slot: str | None = None) -> list[Path]:
    """The files of the spool, oldest first; of one ``slot`` (stage.style.variant) where given."""
    found = ((SPOOL_NAME.fullmatch(path.name), path) for path in spool.glob("*.jsonl"))
    return sorted(p for match, p in found if match and slot in (None, match["slot"]))


def read_header(path: Path) -> RunHeader | None:
    """The file's first line; None where it was cut off before that was whole."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        content = json.loads(line)
        return RunHeader(**{k: v for k, v in content.items() if k != "kind"})
    except (ValueError, TypeError, AttributeError):
        return None


def read_events(path: Path, start: int = 0) -> Iterator[tuple[int, Event]]:
    """The whole events from byte ``start`` on, each with the byte after it; torn lines left out."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return  # still being written
            start += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("kind") != "header":
                yield start, event


@dataclass(frozen=True)
class Sent:
    """How much of a file is delivered, and where to."""

    offset: int = 0
    uri: str = ""
    run_id: str = ""


def read_sent(path: Path) -> Sent:
    try:
        return Sent(**json.loads(path.with_suffix(".sent").read_bytes()))
    except (OSError, ValueError, TypeError):
        return Sent()  # sending again is harmless


def write_sent(path: Path, sent: Sent) -> None:
    partial = path.with_suffix(".sent.partial")
    partial.write_text(json.dumps(asdict(sent)))
    partial.replace(path.with_suffix(".sent"))


def undelivered(spool: Path) -> int:
    """How many events are not delivered yet."""
    return sum(1 for path in spool_files(spool) for _ in read_events(path, read_sent(path).offset))
