"""Processes of this machine: started, watched, and ended with the one that started them.

Those of one training find each other as those of ``torchrun`` and ``accelerate launch`` do, by the
same variables.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO

from nsync_pipeline.errors import LostProcessError, WorkerError
from nsync_pipeline.ranks import usable_cores

LOOK_EVERY = 0.1  # seconds between two looks at the processes
GRACE = 15.0
"""Seconds that the others have to end by themselves when one has failed; then they are ended."""
KILLED = 1  # the exit code for a process that was killed
ENDS_WITH_PARENT = "NSYNC_ENDS_WITH_PARENT"
"""The variable that tells a process to end when the one that started it has."""
UNDER_DVC = "DVC_STAGE"  # the variable by which DVC tells a command that it runs it
OURS = "nsync: "
"""How the command line begins what a person should read."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class _Worker:
    rank: int
    process: subprocess.Popen[bytes]
    errors: IO[bytes] | None  # what it said on stderr; None: it was said here


def run_workers(command: Sequence[str], count: int, threads: int | None = None) -> None:
    """Run ``command`` in ``count`` processes on this machine until all are done.

    The first one's output is this process's; of the others nothing is shown but the last words of
    one that fails. When one fails, all end.

    Args:
        threads: of each; None: the cores are divided among them.

    Raises:
        WorkerError: one failed; the message says which, and what it said.
    """
    with ExitStack() as open_files:
        port = _free_port()
        workers: list[_Worker] = []
        try:
            for rank in range(count):
                errors = None if rank == 0 else open_files.enter_context(tempfile.TemporaryFile())
                workers.append(_started(command, rank, count, port, errors, threads))
            _wait(workers)
        finally:  # no process outlives this, however it is left
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.kill()
            for worker in workers:
                worker.process.wait()


def _started(
    command: Sequence[str],
    rank: int,
    count: int,
    port: int,
    errors: IO[bytes] | None,
    threads: int | None,
) -> _Worker:
    place = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        ENDS_WITH_PARENT: "1",
    }
    process = subprocess.Popen(
        command,
        env={"OMP_NUM_THREADS": str(threads or max(1, usable_cores() // count))}
        | dict(os.environ)
        | place,
        stdout=None if errors is None else subprocess.DEVNULL,
        stderr=errors,
    )
    return _Worker(rank, process, errors)


def _wait(workers: Sequence[_Worker]) -> None:
    while True:
        codes = [worker.process.poll() for worker in workers]
        if all(code == 0 for code in codes):
            return
        if any(code not in (None, 0) for code in codes):
            break
        time.sleep(LOOK_EVERY)
    limit = time.monotonic() + GRACE
    while time.monotonic() < limit and any(worker.process.poll() is None for worker in workers):
        time.sleep(LOOK_EVERY)
    failed = [worker for worker in workers if worker.process.poll() not in (None, 0)]
    # Those that only lost another are not the reason.
    reasons = [w for w in failed if w.process.returncode != LostProcessError.exit_code]
    raise _error((reasons or failed)[0], len(workers))


def _error(worker: _Worker, count: int) -> WorkerError:
    said = None
    if worker.errors is not None:
        worker.errors.seek(0)
        said = worker.errors.read().decode(errors="replace")
    error = ended_error(f"process {worker.rank} of {count}", worker.process.returncode, said)
    return WorkerError(f"{error}. All have ended.", error.exit_code)


def ended_error(who: str, code: int, said: str | None) -> WorkerError:
    """How a process ended that failed: its code, and its last words; ``said`` is its stderr.

    None: what it said on stderr was seen.
    """
    how = f"ended with code {code}" if code > 0 else f"was killed ({signal.Signals(-code).name})"
    words = "what it said is above" if said is None and code > 0 else last_words(said or "")
    message = f"{who} {how}" + (f": {words}" if words else "")
    return WorkerError(message, code if code > 0 else KILLED)


def last_words(said: str) -> str:
    """What the command line said on stderr that a person should read; else the last line."""
    lines = [line for line in said.splitlines() if line.strip()]
    begins = [number for number, line in enumerate(lines) if line.startswith(OURS)]
    return "\n".join(lines[begins[-1] if begins else -1 :]).removeprefix(OURS).strip()


def start(command: Sequence[str], errors: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start ``command``, which ends with this process; Ctrl-C reaches it only by ``end_all``."""
    return subprocess.Popen(
        command, env={**os.environ, ENDS_WITH_PARENT: "1"}, process_group=0,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
    )  # fmt: skip


def end_all(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Have them end as by Ctrl-C, by force where that takes too long."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    limit = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def ends_with_parent() -> bool:
    """Whether this process is to end when the one that started it has."""
    return UNDER_DVC in os.environ or ENDS_WITH_PARENT in os.environ


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM is as Ctrl-C, and so is the end of a parent that this process ends with."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    if ends_with_parent():
        die_with_parent(by=signal.SIGTERM)
    try:
        yield
    finally:
        if ends_with_parent():
            die_with_parent()
        signal.signal(signal.SIGTERM, before)


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent ends, however that ends (Linux only).

    Under DVC the parent is ``dvc`` itself: dvc.yaml has the shell in between replace itself.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, by) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), by)
