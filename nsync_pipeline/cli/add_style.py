"""After a style's pictures are in: DVC's part of ``nsync add-style``."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.workspace import Workspace


def version_source(workspace: Workspace, folder: Path) -> list[str]:
    """``dvc add`` the pictures in ``folder``; gives what was done, a line each.

    Without DVC, or outside of a DVC repository, there is nothing to do.

    Raises:
        UserError: ``dvc add`` failed; the style is in all the same, and the message says how to go
            on.
    """
    if find_spec("dvc") is None or not (workspace.root / ".dvc").is_dir():
        return []
    relative = folder.relative_to(workspace.root).as_posix()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "add", "--quiet", relative],
        cwd=workspace.root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        # Where DVC itself broke, only the last line of its traceback says something.
        reason = lines[-1] if "Traceback (most recent call last):" in lines else "\n".join(lines)
        raise UserError(
            f"{relative} has the pictures and params.yaml the style, but `dvc add {relative}` "
            f"failed: {reason}\nPut that right, then run it yourself."
        )
    return [f"{relative}.dvc: the pictures' version, for git (`git add {relative}.dvc`)"]


def list_in_dvc_file(workspace: Workspace) -> list[str]:
    """Bring ``dvc.yaml`` in order with the new style, where there is one."""
    return sync_dvc_file(workspace) if (workspace.root / "dvc.yaml").is_file() else []
