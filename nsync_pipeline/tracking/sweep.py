"""One pass over the spool: what is not delivered yet is, and what is done with is taken away."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from nsync_pipeline.tracking.spool import (
    SPOOL_NAME,
    is_alive,
    read_header,
    read_sent,
    spool_files,
    undelivered,
    writer_lock,
)
from nsync_pipeline.tracking.unfinished import end_abandoned, last_status


class Sender(Protocol):
    """Sends a file's events; ``delivery.Delivery`` is one."""

    def send(self, path: Path) -> int: ...


@dataclass(frozen=True)
class Swept:
    """What one pass did."""

    delivered: int
    """Events."""
    problem: str | None
    """Why the pass could not go on."""


def sweep(tracking: Path, uri: str, sender: Callable[[], Sender], wait: float = 60.0) -> Swept:
    """Deliver what is meant for ``uri``, oldest run first; never raises for a server's sake.

    ``sender`` is called only where there is something to send. Two processes never sweep at once:
    the other's pass is waited for, ``wait`` seconds at most.
    """
    delivered = 0
    try:
        with FileLock(tracking / "sweep.lock").acquire(timeout=wait):
            for path in meant_for(tracking, uri):
                alive = is_alive(path)
                if not alive:
                    with suppress(Timeout):  # it has just been taken up again
                        end_abandoned(path)
                if has_more(path):
                    delivered += sender().send(path)
                if not alive and not has_more(path) and _is_done_with(path):
                    _remove(path)
    except Exception as error:
        return Swept(delivered, " ".join(str(error).split()) or type(error).__name__)
    return Swept(delivered, None)


def meant_for(tracking: Path, uri: str) -> list[Path]:
    headers = ((path, read_header(path)) for path in spool_files(tracking / "spool"))
    return [path for path, header in headers if header is not None and header.uri == uri]


def destinations(tracking: Path) -> list[str]:
    """The servers the spool holds something for."""
    headers = (read_header(path) for path in spool_files(tracking / "spool"))
    return sorted({header.uri for header in headers if header is not None})


def has_more(path: Path) -> bool:
    return read_sent(path).offset < path.stat().st_size


def events_left(tracking: Path) -> int:
    return undelivered(tracking / "spool")


def _is_done_with(path: Path) -> bool:
    """Nothing will be added: it is finished, only added to another's run, or a newer one runs."""
    header = read_header(path)
    name = SPOOL_NAME.fullmatch(path.name)
    if header is None or name is None:
        return False
    newest = spool_files(path.parent, name["slot"])[-1] == path
    return not header.owner or last_status(path) == "FINISHED" or not newest


def _remove(path: Path) -> None:
    path.unlink()
    path.with_suffix(".sent").unlink(missing_ok=True)
    Path(writer_lock(path).lock_file).unlink(missing_ok=True)
