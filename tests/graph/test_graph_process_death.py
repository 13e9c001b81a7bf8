"""kill -9 of what started a stage ends the stage."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.fake_workspace import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")

STAGE = """
import sys, time
from collections.abc import Callable
from pathlib import Path
from nsync_pipeline.graph.processes import die_with_parent
die_with_parent()
Path(sys.argv[1]).write_text("ready")
time.sleep(60)
"""
LIKE_DVC = """
import subprocess, sys
stage = subprocess.Popen([sys.argv[1], "-c", sys.argv[2]])
print(stage.pid, flush=True)
stage.wait()
"""


@pytest.mark.parametrize("shell", ["/bin/sh", "bash", "zsh"])
def test_stage_ends_when_its_dvc_is_killed(tmp_path: Path, shell: str) -> None:
    """Between the two is a shell, chosen by ``SHELL``; the command is that of dvc.yaml."""
    if subprocess.run(["sh", "-c", f"command -v {shell}"], capture_output=True).returncode:
        pytest.skip(f"no {shell} here")
    (tmp_path / "stage.py").write_text(STAGE)
    ready = tmp_path / "ready"
    nsync = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["vars"][0]["nsync"]
    assert nsync.endswith(" nsync")
    command = f"{nsync.removesuffix('nsync')}{sys.executable} {tmp_path}/stage.py {ready}"
    dvc = subprocess.Popen(
        [sys.executable, "-c", LIKE_DVC, shell, command], stdout=subprocess.PIPE, text=True
    )
    assert dvc.stdout is not None
    stage = int(dvc.stdout.readline())
    _until(ready.exists)
    assert _is_alive(stage)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    _until(lambda: not _is_alive(stage))


def test_a_command_ends_with_its_parent_while_it_loads_its_libraries(tmp_path: Path) -> None:
    """For as long as imports take, nobody has told the kernel yet."""
    ready = tmp_path / "ready"
    slow = f"import pathlib, time\npathlib.Path({str(ready)!r}).touch()\ntime.sleep(60)\n"
    (tmp_path / "typer.py").write_text(slow)  # which every command imports
    path = f"{tmp_path}{os.pathsep}{REPOSITORY}"
    command = [
        sys.executable,
        "-c",
        LIKE_DVC,
        "/bin/sh",
        f"exec {sys.executable} -m nsync_pipeline.cli",
    ]
    dvc = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path, "DVC_STAGE": "training@ink"},
    )  # fmt: skip
    assert dvc.stdout is not None
    stage = int(dvc.stdout.readline())
    _until(ready.exists)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    _until(lambda: not _is_alive(stage), seconds=20)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
