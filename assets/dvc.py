"""DVC as a program: the one thing the assets start."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assets.place import WORKSPACE
from nsync_pipeline.pipeline.process_death import die_with_parent

BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")
"""What DVC says while another DVC command holds what this one needs."""
PATIENCE = 24 * 3600.0  # seconds: another training may go first
LONGEST_PAUSE = 30.0  # seconds between two tries


class DvcError(Exception):
    """DVC, or the stage it ran, failed; the message is what was said on stderr."""


@dataclass(frozen=True)
class Ended:
    """A DVC command that ended."""

    code: int
    stdout: str
    stderr: str


def repro(stage: str, environment: Mapping[str, str]) -> None:
    """Bring one stage up to date, as ``dvc repro --single-item`` does.

    Raises:
        DvcError: it failed.
    """
    arguments = ("--wait-for-lock", "repro", "--quiet", "--single-item", stage)
    ended = _run_dvc(arguments, environment)
    print(ended.stderr, end="", file=sys.stderr)  # warnings, where there were any


def stages_out_of_date(stages: Sequence[str]) -> set[str]:
    """Those of ``stages`` that DVC would run now; what is only downstream of them is not in.

    Raises:
        DvcError: DVC could not say.
    """
    arguments = ("--wait-for-lock", "status", "--json", *stages)
    status = json.loads(_run_dvc(arguments, {}, keep_stdout=True).stdout)
    return {name for name in status if name in stages}


def _run_dvc(
    arguments: Sequence[str], environment: Mapping[str, str], keep_stdout: bool = False
) -> Ended:
    give_up, pause = time.monotonic() + PATIENCE, 1.0
    while True:
        ended = _once(arguments, environment, keep_stdout)
        if ended.code == 0:
            return ended
        if time.monotonic() > give_up or not any(saying in ended.stderr for saying in BUSY):
            raise DvcError(ended.stderr.strip() or f"dvc ended with exit code {ended.code}")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _once(arguments: Sequence[str], environment: Mapping[str, str], keep_stdout: bool) -> Ended:
    programs = f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}"
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=WORKSPACE.root,
        env={**os.environ, "PATH": programs, **environment},
        # A stage shows its progress on stdout, so that one passes through to the terminal.
        stdout=subprocess.PIPE if keep_stdout else None,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    try:
        stdout, stderr = process.communicate()
    except BaseException:  # the run was ended: so is what it started
        process.terminate()
        process.wait()
        raise
    return Ended(process.returncode, stdout or "", stderr)
