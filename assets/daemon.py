"""Dagster's daemon, which runs sensors and starts runs: one a workspace at a time.

Two would start the same runs. The pages and a demo both need one: whoever comes first starts it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from nsync_pipeline.errors import WorkspaceBusyError
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT
from nsync_pipeline.workspace import Workspace

from .instance import VARIABLE, write_home
from .runs import ATTEMPT_VARIABLE

PATIENCE = 20  # seconds a server is given to end by itself


def environment_of(workspace: Workspace) -> dict[str, str]:
    """In which Dagster's programs find its history, and others of this environment."""
    home = os.environ.get(VARIABLE) or str(write_home(workspace))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, VARIABLE: home, "PATH": path}


def kept(*command: str) -> list[str]:
    """``command`` as it is started here: all that it starts ends with this process."""
    return [sys.executable, "-m", f"{__package__}.kept", *command]


def start_daemon(
    workspace: Workspace,
    until: ExitStack,
    output: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes] | None":
    """Start it until ``until`` is left; None where another command has one.

    What it starts has ``environment``, too.
    """
    try:
        until.enter_context(sole_writer(workspace.lock("dagster-daemon"), "Dagster's history"))
    except WorkspaceBusyError:
        return None
    own = {ENDS_WITH_PARENT: "1", ATTEMPT_VARIABLE: str(int(time.time())), **(environment or {})}
    program = Path(sys.executable).with_name("dagster-daemon")
    daemon = subprocess.Popen(
        kept(str(program), "run", "-w", "workspace.yaml", "--log-level", "warning"),
        cwd=workspace.root, env=environment_of(workspace) | own, stdout=output, stderr=output,
    )  # fmt: skip
    until.callback(end, daemon)
    return daemon


def end(process: "subprocess.Popen[bytes]") -> None:
    """Have it end, by force where it takes too long."""
    process.terminate()
    try:
        process.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
