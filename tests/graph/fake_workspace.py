"""A workspace with the project's own dvc.yaml and params.yaml, and fake stages (fake_nsync.py)."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.graph.table import BASE_WEIGHTS, CLIP_WEIGHTS
from nsync_pipeline.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COPIED = ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", "workspace.yaml",
    "sources/woodblock/README.md", "choices/woodblock/README.md",
)  # fmt: skip


@dataclass(frozen=True)
class FakeWorkspace:
    """The workspace, and the environment in which ``nsync`` is the fake one."""

    workspace: Workspace
    environment: dict[str, str]

    @property
    def root(self) -> Path:
        return self.workspace.root

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in the workspace."""
        return subprocess.run(
            command, cwd=self.root, env={**self.environment, **environment}, text=True,
            capture_output=True, check=False, timeout=1500,
        )  # fmt: skip

    def nsync(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.call("nsync", *arguments, **environment)

    def dvc(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run DVC, which must succeed."""
        done = self.call(str(BIN / "dvc"), *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def edit_params(self, before: str, after: str) -> None:
        text = self.workspace.params_file.read_text()
        assert text.count(before) == 1, before
        self.workspace.params_file.write_text(text.replace(before, after))

    def ran(self) -> list[str]:
        """The stages that ran since this was asked last."""
        log = Path(self.environment["FAKE_LOG"])
        lines = log.read_text().split() if log.is_file() else []
        log.unlink(missing_ok=True)
        return lines


def make_fake_workspace(root: Path, with_dvc: bool = True) -> FakeWorkspace:
    """A workspace at ``root/workspace``; its code is a copy, with stand-ins for the weights."""
    folder = root / "workspace"
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    for package in ("nsync_pipeline", "assets"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=ignored)
    for weights in (BASE_WEIGHTS, CLIP_WEIGHTS):
        (folder / "nsync_pipeline" / weights).mkdir(parents=True)
        (folder / "nsync_pipeline" / weights / "model.safetensors").write_bytes(b"weights")
    programs = root / "bin"
    programs.mkdir()
    nsync = programs / "nsync"
    fake = Path(__file__).with_name("fake_nsync.py")
    nsync.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake}" "$@"\n')
    nsync.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "DAGSTER_"))}
    environment |= {
        "PATH": f"{programs}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}",
        "FAKE_LOG": str(root / "ran.txt"),
        "NSYNC_TRACKING": "off",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    made = FakeWorkspace(Workspace(folder), environment)
    if with_dvc:
        shutil.copytree(
            REPOSITORY / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache")
        )
        made.call("git", "init", "-q")
    return made
