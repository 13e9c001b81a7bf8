"""A process that is silent, with all its connections open, ends the others."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nsync_pipeline.errors import LostProcessError
from nsync_pipeline.graph.processes import _free_port

SCRIPT = """
import os, time
import torch.distributed as dist
from nsync_pipeline.training import processes as heartbeat
from nsync_pipeline.training.processes import this_rank
heartbeat.EVERY, heartbeat.SILENCE = 0.2, 2.0
rank = this_rank()
store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=rank.is_first)
with heartbeat.heartbeat(rank):
    print("beating", flush=True)
    time.sleep({seconds})
    store.add("done", 1)
    while rank.is_first and store.add("done", 0) < 2:  # it keeps the beats: it ends last
        time.sleep(0.05)
if rank.is_first:
    time.sleep(2)
"""


def beating(rank: int, port: int, seconds: float) -> subprocess.Popen[str]:
    environment = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(seconds=seconds)],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "MASTER_PORT": str(port)} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without processes")
@pytest.mark.parametrize(("stopped", "how"), [(1, signal.SIGSTOP), (0, signal.SIGKILL)])
def test_the_other_ends_and_says_which_one_is_gone(stopped: int, how: signal.Signals) -> None:
    """A stopped process keeps its connections; the first one, which keeps the beats, is killed."""
    port = _free_port()
    both = [beating(rank, port, seconds=120) for rank in (0, 1)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "beating\n"
    both[stopped].send_signal(how)
    other = both[1 - stopped]
    try:
        _, said = other.communicate(timeout=60)
    finally:
        both[stopped].kill()
        both[stopped].communicate()
    assert other.returncode == LostProcessError.exit_code
    assert f"the training ends: process {stopped} of 2" in said


def test_processes_that_beat_are_left_alone() -> None:
    port = _free_port()
    both = [beating(rank, port, seconds=5) for rank in (0, 1)]
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
