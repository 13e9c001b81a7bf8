"""Locks between real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nsync_pipeline.errors import UserError, WorkspaceBusyError
from nsync_pipeline.graph.locks import is_held, sole_writer

HOLD = """
import sys, time
from pathlib import Path
from nsync_pipeline.graph.locks import sole_writer
with sole_writer(Path(sys.argv[1]), Path("models/ink/nsync")):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "training-ink-nsync.lock"


def _holder(lock: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_writer_is_refused_and_told_who_the_first_is(lock: Path) -> None:
    holder = _holder(lock)
    try:
        with (
            pytest.raises(WorkspaceBusyError, match=f"process {holder.pid}:") as caught,
            sole_writer(lock, Path("models/ink/nsync")),
        ):
            pytest.fail("two writers")
        assert "models/ink/nsync" in str(caught.value)
        with pytest.raises(WorkspaceBusyError, match=f"process {holder.pid}:"):
            sole_writer(lock, Path("models/ink/nsync")).__enter__()  # the refusal changed nothing
    finally:
        holder.kill()
        holder.wait()


def test_lock_of_a_killed_writer_is_free(lock: Path) -> None:
    holder = _holder(lock)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with sole_writer(lock, Path("models/ink/nsync")):
        assert lock.read_text() == str(os.getpid())


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_what_is_no_file_in_a_locks_place_is_left_alone(
    lock: Path, tmp_path: Path, kind: str
) -> None:
    """A workspace that somebody else made may bring a link along: its target keeps its content."""
    lock.parent.mkdir()
    mine = tmp_path / "mine.txt"
    if kind == "link":
        mine.write_text("mine")
    if kind.startswith("link"):
        lock.symlink_to(mine)
    else:
        os.mkfifo(lock) if kind == "pipe" else lock.mkdir()
    with pytest.raises(UserError, match="is a link or no file"):
        sole_writer(lock, "params.yaml").__enter__()
    if lock.exists():
        with pytest.raises(UserError, match="is a link or no file"):
            is_held(lock)
    assert mine.exists() == (kind == "link")
    assert not mine.exists() or mine.read_text() == "mine"
