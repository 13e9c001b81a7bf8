"""DVC as a program: the one thing the assets start.

It runs the stage, with a line from the engine to the Dagster run, and records what was made.
"""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dagster import (
    AssetExecutionContext,
    PipesTempFileContextInjector,
    PipesTempFileMessageReader,
    PreviewWarning,
    open_pipes_session,
)

from nsync_pipeline.graph.artefacts import Artefact
from nsync_pipeline.graph.dvc import TRACEBACK, dvc_reason, stage_name, sync_dvc_file
from nsync_pipeline.graph.processes import OURS, die_with_parent, last_words
from nsync_pipeline.text import ESCAPED
from nsync_pipeline.workspace import Workspace

# Raised by dagster's own code, at every session.
warnings.filterwarnings("ignore", category=PreviewWarning)

BUSY = (
    "is busy, it is being blocked by", "Unable to acquire lock", "database is locked",
    "is being written by process",
)  # fmt: skip
"""What DVC and the engine say while another command holds what this one needs."""
PATIENCE = 24 * 3600.0  # seconds: another training may go first
LONGEST_PAUSE = 30.0  # seconds between two tries


class DvcError(Exception):
    """DVC, or the stage it ran, failed; the message is what a person should read."""

    was_killed = False
    """It may go well when it is tried again: nobody made a mistake."""


@dataclass(frozen=True)
class _Ended:
    code: int
    stderr: str


def repro(context: AssetExecutionContext, root: Path, artefact: Artefact) -> None:
    """Bring one artefact of the workspace ``root`` up to date, as ``dvc repro --single-item`` does.

    Raises:
        DvcError: DVC or the stage failed.
    """
    if artefact.of_ablation:
        sync_dvc_file(Workspace(root), ablation=True)
    with open_pipes_session(
        context=context,
        context_injector=PipesTempFileContextInjector(),
        message_reader=PipesTempFileMessageReader(),
    ) as session:
        environment = session.get_bootstrap_env_vars()
        give_up, pause = time.monotonic() + PATIENCE, 1.0
        while True:
            ended = _run(root, environment, stage_name(artefact))
            if ended.code == 0:
                print(ended.stderr, end="", file=sys.stderr)  # warnings, where there were any
                return
            if time.monotonic() > give_up or not any(says in ended.stderr for says in BUSY):
                raise _error(ended)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _run(root: Path, environment: Mapping[str, str], stage: str) -> _Ended:
    """DVC in the workspace until it ends; it ends when this process does."""
    # Not --quiet: DVC would keep its own reasons to itself.
    arguments = ["--wait-for-lock", "repro", "--single-item", stage]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env={**os.environ, "PATH": programs, **environment},
        stderr=subprocess.PIPE,
        text=True,
        errors=ESCAPED,
        preexec_fn=die_with_parent,
    )
    try:
        _, stderr = process.communicate()
    except BaseException:  # the run was ended: so is what it started
        process.terminate()
        process.wait()
        raise
    return _Ended(process.returncode, stderr)


def _error(ended: _Ended) -> DvcError:
    """What the engine said, without DVC's words around it; where it said nothing, DVC's own."""
    lines = ended.stderr.strip().splitlines()
    if any(line.startswith(OURS) for line in lines):
        own = [line for line in lines if not line.startswith("ERROR: ")]
        return DvcError(last_words("\n".join(own)))
    if TRACEBACK in lines:  # a fault of the engine's: first what it was, then where
        trace = lines[lines.index(TRACEBACK) :]
        last = [line for line in trace if not line.startswith(("ERROR: ", " "))]
        error = DvcError("\n".join([last[-1], *trace]))
    else:
        error = DvcError(f"DVC: {dvc_reason(ended.stderr, ended.code)}")
    error.was_killed = ended.code < 0
    return error
