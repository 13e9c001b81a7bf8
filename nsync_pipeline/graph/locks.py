"""One writer an artefact, and one user a device.

``flock`` locks: the kernel lets go of them when the process ends, however it ends. Devices are
given out one by one: a stage gets the first that are free, and waits where too few are. A lease is
a lock in a folder of this user's own, on this machine: all workspaces share the devices. For this
process and those it starts, ``CUDA_VISIBLE_DEVICES`` then names the cards that were leased.
"""

import ctypes
import fcntl
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from nsync_pipeline.errors import UserError, WorkspaceBusyError

VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG = "MIG-"
"""How CUDA names a part of a card."""
CARD, CORE = "cuda", "core"
FOLDER = "NSYNC_LEASES"
"""The variable that names another folder than /tmp for the leases' own."""
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
    with open(_opened(lock), "r+", encoding="ascii", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
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
    if not lock.exists():
        return False
    if (file := _lock(lock)) is None:
        return True
    os.close(file)
    return False


def visible_devices() -> list[str]:
    """The CUDA devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them, or all.

    A name of something that is not there ends the list, as it does for CUDA.
    """
    named = os.environ.get(VISIBLE)
    names = None if named is None else _as_cuda_reads(named)
    # CUDA alone can count parts of a card, and once it has, the variable is read.
    if names is not None and (not names or names[0].startswith(MIG)):
        return names
    if not driver_is_there():
        return []
    import torch  # only here: most of what this package does needs no torch

    # Counted through NVML: CUDA itself must not start before the variable is set.
    there = torch.cuda.device_count()
    return names[:there] if names is not None else [str(index) for index in range(there)]


def driver_is_there() -> bool:
    """Whether there may be a card; torch, which knows, takes seconds to load."""
    if sys.platform != "linux":
        return sys.platform != "darwin"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()  # AMD's
    return True


def _as_cuda_reads(named: str) -> list[str]:
    """-1, or nothing, ends the list; what is named twice leaves none."""
    names = [name.strip() for name in named.split(",")]
    names = list(takewhile(lambda name: name and not name.startswith("-"), names))
    return names if len(set(names)) == len(names) else []


@contextmanager
def leased_devices(
    devices: Sequence[str], count: int, on_wait: Callable[[str], None], kind: str = CARD
) -> Iterator[tuple[str, ...]]:
    """``count`` of ``devices``, against this user's other processes on this machine.

    ``on_wait`` is told once where others have them. Where there is no device, or whoever started
    this process leased them, nothing is leased.

    Args:
        kind: ``CARD``, of which CUDA then sees those that were leased, or ``CORE``.

    Raises:
        UserError: more are asked for than there are.
    """
    if not devices or LEASED in os.environ:
        yield ()
        return
    if count > len(devices):
        raise UserError(f"{count} devices are asked for, and there are {len(devices)}")
    before = {name: os.environ.get(name) for name in (VISIBLE, LEASED)}
    held: dict[str, int] = {}  # open locked files
    try:
        _wait_for(devices, count, kind, on_wait, held)
        leased = tuple(name for name in devices if name in held)
        os.environ |= {LEASED: "1"} | ({VISIBLE: ",".join(leased)} if kind == CARD else {})
        yield leased
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for file in held.values():
            os.close(file)


def lease_folder() -> Path:
    """A folder that only this user can write to.

    Raises:
        UserError: somebody else made one of its name.
    """
    # One for all of this user's sessions: XDG_RUNTIME_DIR is not set in every one, and goes with
    # the last, and TMPDIR may be a session's own.
    here = Path("/tmp")
    said = os.environ.get(FOLDER) or (here if here.is_dir() else tempfile.gettempdir())
    folder = Path(said) / f"nsync-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not own or found.st_mode & 0o022:
        raise UserError(
            f"{folder} is not a folder that only you can write to: remove it, or name another "
            f"place in {FOLDER}"
        )
    return folder


def _wait_for(
    devices: Sequence[str],
    count: int,
    kind: str,
    on_wait: Callable[[str], None],
    held: dict[str, int],
) -> None:
    """Fill ``held`` with ``count`` of ``devices``.

    Who needs several keeps each that gets free, or those that need one would always go first. Only
    one at a time does so: two that each hold a part would wait for ever.
    """
    folder = lease_folder()
    gate = None
    waiting = False
    try:
        while True:
            if count > 1 and gate is None:
                gate = _lock(folder / f"{kind}-several.lock")
            if count == 1 or gate is not None:
                for name in devices:
                    if name not in held and len(held) < count:
                        file = _lock(folder / f"{kind}-{name.replace(os.sep, '_')}.lock")
                        if file is not None:
                            held[name] = file
                if len(held) == count:
                    return
            if not waiting:
                on_wait(f"waiting for {_counted(devices, count, kind)}, which others use")
                waiting = True
            time.sleep(RETRY)
    finally:
        if gate is not None:
            os.close(gate)


def _counted(devices: Sequence[str], count: int, kind: str) -> str:
    if kind == CORE:
        return f"{count} of {len(devices)} cores"
    of = "device" if len(devices) == 1 else "devices"
    return f"{count} of the {of} {', '.join(devices)}"


def _opened(path: Path, mode: int = 0o666) -> int:
    """The open file of a lock; never that of another file, which a link in its place leads to."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} is a link or no file, and a lock is a file: remove it")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, mode)


def _lock(path: Path) -> int | None:
    """The open, locked file; None where another process holds it."""
    file = _opened(path, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
