"""One writer an artefact, and one user an accelerator.

``flock`` locks: the kernel lets go of them when the process ends, however it ends. Accelerators are
given out one by one: a stage gets the first free one, and waits where none is. A lease is a lock in
a folder of this user's own, on this machine; ``CUDA_VISIBLE_DEVICES`` then names what was leased,
for this process and those it starts.
"""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from nsync_pipeline.errors import UserError, WorkspaceBusyError

VISIBLE = "CUDA_VISIBLE_DEVICES"
LEASED = "NSYNC_LEASED"
"""Tells a process that the one that started it holds its devices."""
RETRY = 0.5  # seconds


@contextmanager
def sole_writer(lock: Path, artefact: Path | str) -> Iterator[None]:
    """Hold ``lock`` while ``artefact`` is written.

    Raises:
        WorkspaceBusyError: another process holds it; the message names that process.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    # Not "w": whoever fails to take the lock must not wipe out the holder's number.
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise WorkspaceBusyError(
                f"{artefact} is being written by process {file.read().strip() or '(unknown)'}: "
                "wait until it has ended (or end it), then run this again."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_held(lock: Path) -> bool:
    """Whether a process holds ``lock`` as ``sole_writer`` does."""
    try:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def visible_devices() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` names, else every CUDA device; none where there is none."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        # As CUDA reads it: -1, or nothing, ends the list.
        return list(takewhile(lambda name: name and not name.startswith("-"), names))
    import torch  # only here: most of what this package does needs no torch

    # Counted through NVML: CUDA itself must not start before the variable is set.
    return [str(index) for index in range(torch.cuda.device_count())]


@contextmanager
def leased_devices(
    devices: Sequence[str], count: int, on_wait: Callable[[str], None]
) -> Iterator[tuple[str, ...]]:
    """``count`` of ``devices``, against this user's other processes on this machine.

    ``on_wait`` is told once where all are taken. Where there is no device, or whoever started this
    process leased them, nothing is leased.

    Raises:
        UserError: more are asked for than there are.
    """
    if not devices or LEASED in os.environ:
        yield ()
        return
    if count > len(devices):
        raise UserError(f"{count} devices are asked for, and there are {len(devices)}")
    before = {name: os.environ.get(name) for name in (VISIBLE, LEASED)}
    files, leased = _wait_for(devices, count, on_wait)
    os.environ |= {VISIBLE: ",".join(leased), LEASED: "1"}
    try:
        yield tuple(leased)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for file in files:
            os.close(file)


def lease_folder() -> Path:
    """A folder that only this user can write to.

    Raises:
        UserError: somebody else made one of its name.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    parent = Path(runtime) if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir())
    folder = parent / f"nsync-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not own or found.st_mode & 0o022:
        raise UserError(
            f"{folder} is not a folder that only you can write to: remove it, or name another "
            "place in XDG_RUNTIME_DIR"
        )
    return folder


def _wait_for(
    devices: Sequence[str], count: int, on_wait: Callable[[str], None]
) -> tuple[list[int], list[str]]:
    """Open locked files, and the devices they stand for."""
    folder = lease_folder()
    waiting = False
    while True:
        files: list[int] = []
        leased: list[str] = []
        for name in devices:
            file = _lock(folder / f"cuda-{name.replace(os.sep, '_')}.lock")
            if file is not None:
                files.append(file)
                leased.append(name)
            if len(leased) == count:
                return files, leased
        for file in files:  # all or none: two that each hold one would wait for ever
            os.close(file)
        if not waiting:
            others = "device" if len(devices) == 1 else "devices"
            on_wait(f"waiting for {count} of the {others} {', '.join(devices)}, which others use")
            waiting = True
        time.sleep(RETRY)


def _lock(path: Path) -> int | None:
    """The open, locked file; None where another process holds it."""
    if path.is_symlink():
        raise UserError(f"{path} is a link, and a lease is none: remove it")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
