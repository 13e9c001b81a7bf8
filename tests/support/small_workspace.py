"""A workspace that runs the real pipeline in seconds a stage: few pictures, few steps."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.workspace import Workspace
from tests.support.fake_workspace import BIN, REPOSITORY

COPIED = (
    "dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", "workspace.yaml",
    "sources/woodblock/README.md", "choices/woodblock/README.md", "captions/woodblock.jsonl",
)  # fmt: skip
SMALL = {
    "    pictures": 16,
    "  steps": 4,
    "  checkpoint_every": 2,
    "    steps": 3,
    "  bootstrap_draws": 100,
}
"""What is set in params.yaml, wherever such a line stands there; the spaces say how deep."""


@dataclass(frozen=True)
class SmallWorkspace:
    """The workspace, with the environment its programs run in."""

    workspace: Workspace
    environment: dict[str, str]

    @property
    def root(self) -> Path:
        return self.workspace.root

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, which must succeed."""
        program = [str(BIN / command[0]), *command[1:]]
        done = subprocess.run(
            program, cwd=self.root, env=self.environment, text=True, capture_output=True,
            check=False, timeout=1200,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def edit_params(self, before: str, after: str) -> None:
        text = self.workspace.params_file.read_text()
        assert before in text, before
        self.workspace.params_file.write_text(text.replace(before, after))


def make_small_workspace(folder: Path) -> SmallWorkspace:
    """A copy of the project in ``folder``, in git, with small settings."""
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, folder / name)
    for package in ("nsync_pipeline", "assets", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local")
        shutil.copytree(REPOSITORY / package, folder / package, ignore=ignored)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "DAGSTER_"))}
    environment |= {
        "PYTHONPATH": str(folder),  # a checkout is worked on by its own engine
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NSYNC_TRACKING": "off",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    small = SmallWorkspace(Workspace(folder), environment)
    text = small.workspace.params_file.read_text()
    for key, value in SMALL.items():
        text, found = re.subn(rf"(?m)^{key}: \d+$", f"{key}: {value}", text)
        assert found, key
    small.workspace.params_file.write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return small
