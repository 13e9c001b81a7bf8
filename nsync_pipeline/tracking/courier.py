"""The process that delivers the spool while stages run, so that they never wait for a server.

A process, not a thread: importing mlflow and talking to a database take the interpreter's lock, and
with it seconds from a training. One courier serves all runs of a workspace; it ends by itself when
no run has been alive for a while. Whatever becomes of it, the spool stays: the next run's courier
or ``nsync deliver`` sends the rest.
"""

import os
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from nsync_pipeline.tracking.hand_over import late_sender
from nsync_pipeline.tracking.spool import is_alive, read_sent
from nsync_pipeline.tracking.sweep import meant_for, sweep

POLL = 1.0  # seconds between passes
LONGEST_PAUSE = 30.0  # seconds, while the server does not answer
LINGER = 30.0  # seconds after the last run's end: most often the next stage begins meanwhile
NICENESS = 10

_started: list[subprocess.Popen[bytes]] = []  # kept, so that none is collected while it runs


def start_courier(tracking: Path, uri: str) -> None:
    """Start the courier unless it runs already; never raises."""
    try:
        with _courier_lock(tracking, uri).acquire(blocking=False):
            pass
        command = [sys.executable, "-m", "nsync_pipeline.tracking.courier", str(tracking), uri]
        with (tracking / "courier.log").open("ab") as log:
            # A process group of its own: Ctrl-C in the terminal ends the stage, not the delivery.
            _started[:] = [process for process in _started if process.poll() is None]
            _started.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
                )
            )
    except (Timeout, OSError):
        return


def wait_for_delivery(path: Path, seconds: float) -> bool:
    """Wait until all of the file is delivered, ``seconds`` at most; gives whether it is."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if read_sent(path).offset >= path.stat().st_size:
                return True
        except FileNotFoundError:  # delivered, and taken away
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def run_courier(tracking: Path, uri: str, poll: float = POLL, linger: float = LINGER) -> None:
    """Deliver until no run has been alive, and nothing has got through, for ``linger`` seconds."""
    try:
        lock = _courier_lock(tracking, uri).acquire(timeout=1)
    except Timeout:
        return
    with lock:
        sender = late_sender(tracking, uri)
        pause = poll
        busy = time.monotonic()
        while tracking.is_dir():
            swept = sweep(tracking, uri, sender)
            if swept.problem is not None:
                print(swept.problem, flush=True)
            pause = poll if swept.problem is None else min(2 * pause, LONGEST_PAUSE)
            now = time.monotonic()
            if swept.delivered or any(is_alive(path) for path in meant_for(tracking, uri)):
                busy = now
            left = busy + linger - now
            if left <= 0:
                return
            time.sleep(min(pause, max(left, poll)))


def _courier_lock(tracking: Path, uri: str) -> FileLock:
    name = sha256(uri.encode()).hexdigest()[:8]
    return FileLock(tracking / f"courier-{name}.lock")


if __name__ == "__main__":
    os.nice(NICENESS)
    run_courier(Path(sys.argv[1]), sys.argv[2])
