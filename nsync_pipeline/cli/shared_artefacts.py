"""Bringing pictures, captions, negatives and the base's drawings up to date, for an ablation."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR

from nsync_pipeline.artifacts import Workspace
from nsync_pipeline.errors import UserError
from nsync_pipeline.params import read_params
from nsync_pipeline.pipeline.process_death import die_with_parent
from nsync_pipeline.pipeline.run import make_artefact
from nsync_pipeline.pipeline.table import Place, Stage

OWN_LINE = (DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR)
"""The line to Dagster is this process's: another that opened it would close it at its end."""


def make_shared(stage: Stage, place: Place) -> None:
    """By DVC where the workspace has it, which may know that nothing is to be done; else here.

    Raises:
        UserError: it failed.
    """
    if is_dvc_repository(place.workspace):
        _repro(place.workspace, f"{stage.name}@{place.style}")
    else:
        make_artefact(stage, place, read_params, None)


def is_dvc_repository(workspace: Workspace) -> bool:
    """DVC is installed, and tracks this workspace."""
    root = workspace.root
    tracked = (root / ".dvc").is_dir() and (root / "dvc.yaml").is_file()
    return tracked and find_spec("dvc") is not None


def _repro(workspace: Workspace, stage: str) -> None:
    programs = f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}"
    environment = {name: v for name, v in os.environ.items() if name not in OWN_LINE}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--quiet", "--single-item",
         stage],
        cwd=workspace.root,
        env=environment | {"PATH": programs},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.strip() or f"it ended with {done.returncode}"
        raise UserError(f"`dvc repro --single-item {stage}` failed: {said}")
