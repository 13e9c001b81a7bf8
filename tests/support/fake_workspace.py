"""A workspace of its own with an ``nsync`` whose stages are fakes (fake_nsync.py)."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import SMALL_PARAMS

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class FakeWorkspace:
    """The workspace, and the environment in which ``nsync`` is the fake one."""

    workspace: Workspace
    environment: dict[str, str]

    @property
    def root(self) -> Path:
        return self.workspace.root

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start ``nsync`` in the workspace."""
        return subprocess.Popen(
            [str(self.root.parent / "bin" / "nsync"), *arguments], cwd=self.root, text=True,
            env={**self.environment, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

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


def copied(fake: FakeWorkspace, root: Path) -> FakeWorkspace:
    """The same workspace at ``root/workspace``, with all that was made in it."""
    shutil.copytree(fake.root.parent, root, symlinks=True)
    before = str(fake.root.parent)
    environment = {k: v.replace(before, str(root)) for k, v in fake.environment.items()}
    return replace(fake, workspace=Workspace(root / fake.root.name), environment=environment)


def make_fake_workspace(root: Path, with_dvc: bool = True) -> FakeWorkspace:
    """A workspace at ``root/workspace``; with DVC, it is a git repository, too."""
    folder = root / "workspace"
    (folder / "sources" / "ink").mkdir(parents=True)
    (folder / "params.yaml").write_text(SMALL_PARAMS)
    (folder / "sources" / "ink" / "README.md").write_text("drawn\n")
    sync_dvc_file(Workspace(folder))
    programs = root / "bin"
    programs.mkdir()
    nsync = programs / "nsync"
    fake = Path(__file__).with_name("fake_nsync.py")
    nsync.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake}" "$@"\n')
    nsync.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "DAGSTER_"))}
    environment |= {
        "PATH": f"{programs}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "FAKE_LOG": str(root / "ran.txt"),
        "NSYNC_TRACKING": "off",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    made = FakeWorkspace(Workspace(folder), environment)
    if with_dvc:
        (folder / ".gitignore").write_text((REPOSITORY / ".gitignore").read_text())
        assert made.call("git", "init", "-q").returncode == 0
        made.dvc("init", "--quiet")
        (folder / ".dvc" / "config").write_text((REPOSITORY / ".dvc" / "config").read_text())
    return made
