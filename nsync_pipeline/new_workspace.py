"""``nsync init``: a workspace anywhere, with git and DVC set up.

Everything is written beside what is there: no file of the person's is changed. What is there
already is left as it is, so a call that was cut off is finished by the same call.
"""

import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from nsync_pipeline.errors import UserError
from nsync_pipeline.files import write_whole
from nsync_pipeline.given_files import unfit_name
from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.text import ESCAPED, printable
from nsync_pipeline.workspace import Workspace

STARTER = {
    "params.yaml": "params.yaml",
    "workspace.yaml": "workspace.yaml",
    "gitignore": ".gitignore",
    "dvcignore": ".dvcignore",
}
"""The files of ``nsync_pipeline/starter``, and what they are called in a workspace."""

DVC_SETTINGS = {
    "core.analytics": "false",
    "core.check_update": "false",
    "core.autostage": "false",
    # Never a hard or symbolic link: who wrote into an artefact would change the cached copy, too.
    "cache.type": "reflink,copy",
}
ORCHESTRATION = "pip install 'nsync-pipeline[orchestration]'"


def init_workspace(folder: Path) -> list[str]:
    """Make ``folder`` a workspace; gives what was done, a line each.

    Raises:
        UserError: it is a file, has a name that is no text, cannot be written to, or git or DVC
            failed.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder, new or old")
    for name in folder.parts:  # DVC and git would fail at it, later and in words of their own
        if (reason := unfit_name(name)) is not None:
            raise UserError(f"{folder}: {printable(name)} {reason}")
    said = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, called in STARTER.items():
            path = folder / called
            if not path.exists():
                text = (files("nsync_pipeline") / "starter" / name).read_text(encoding="utf-8")
                write_whole(path, text)
                said.append(f"{called}: written")
        for kind in ("sources", "choices"):
            (folder / kind).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error
    said += sync_dvc_file(Workspace(folder))
    said += _set_up_git(folder) + _set_up_dvc(folder)
    if find_spec("dagster") is None or find_spec("nsync_assets") is None:
        return [*said, f"Dagster is not installed: {ORCHESTRATION}, then run this again"]
    _run(folder, sys.executable, "-m", "nsync_assets.instance", str(folder))
    return said


def _set_up_git(folder: Path) -> list[str]:
    try:
        inside = _run(folder, "git", "rev-parse", "--is-inside-work-tree", fails=True)
    except FileNotFoundError:
        return ["git is not installed: DVC needs it (apt-get install git), then run this again"]
    if inside:
        return []
    _run(folder, "git", "init", "--quiet")
    return ["git: a new repository; nothing is committed yet"]


def _set_up_dvc(folder: Path) -> list[str]:
    if find_spec("dvc") is None:
        return [f"DVC is not installed: {ORCHESTRATION}, then run this again"]
    if (folder / ".dvc").is_dir():
        return []
    git = ["git", "rev-parse", "--show-toplevel"]
    top = subprocess.run(
        git, cwd=folder, capture_output=True, text=True, errors=ESCAPED
    ).stdout.strip()
    if not top:
        return []
    inside = [] if Path(top).samefile(folder) else ["--subdir"]
    _run(folder, sys.executable, "-m", "dvc", "init", "--quiet", *inside)
    for name, value in DVC_SETTINGS.items():
        _run(folder, sys.executable, "-m", "dvc", "config", name, value)
    return ["DVC: set up; pictures and artefacts go into its cache"]


def _run(folder: Path, *command: str, fails: bool = False) -> bool:
    """Run a program in ``folder``; gives whether it went well. It must, unless it ``fails``."""
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors=ESCAPED)
    if ended.returncode != 0 and not fails:
        reason = (ended.stderr or ended.stdout).strip()
        raise UserError(f"{' '.join(command[-3:])} failed in {folder}: {reason}")
    return ended.returncode == 0
