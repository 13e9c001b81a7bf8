"""A program as a child of an asset: it shows its progress, and ends when the asset does."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assets.place import WORKSPACE
from nsync_pipeline.graph.processes import die_with_parent


@dataclass(frozen=True)
class Ended:
    """A program that ended."""

    code: int
    stdout: str
    stderr: str


def run_child(
    command: Sequence[str], environment: Mapping[str, str], keep_stdout: bool = False
) -> Ended:
    """Run ``command`` in the workspace until it ends; ``environment`` is added to this one."""
    programs = f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}"
    process = subprocess.Popen(
        command,
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
