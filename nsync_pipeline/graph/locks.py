"""One writer an artefact.

``flock`` locks: the kernel lets go of them when the process ends, however it ends.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nsync_pipeline.errors import WorkspaceBusyError


@contextmanager
def sole_writer(lock: Path, artefact: Path | str) -> Iterator[None]:
    """Hold ``lock`` while ``artefact`` is written.

    Raises:
        WorkspaceBusyError: another process holds it; the message names that process.
    """
    with _opened(lock) as file:
        if not _taken(file):
            raise WorkspaceBusyError(
                f"{artefact} is being written by process {_holder(file)}: wait until it has ended "
                "(or end it), then run this again."
            )
        yield


@contextmanager
def _opened(lock: Path) -> Iterator[IO[str]]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Not "w": whoever fails to take the lock must not wipe out the holder's number.
    with lock.open("a+") as file:
        yield file


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "(unknown)"
