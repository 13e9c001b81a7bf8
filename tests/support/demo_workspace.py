"""A workspace in which ``python -m assets.demo`` runs fake stages: DVC and Dagster are real."""

import sys
from pathlib import Path

from nsync_pipeline.workspace import Workspace
from tests.support.fake_workspace import FakeWorkspace, make_fake_workspace

PAGES = """\
load_from:
  - python_module:
      module_name: assets.definitions
      location_name: nsync
      working_directory: .
"""
DEMO = (sys.executable, "-m", "assets.demo", "--style", "ink")


def make_demo_workspace(root: Path) -> FakeWorkspace:
    fake = make_fake_workspace(root)
    (fake.root / "workspace.yaml").write_text(PAGES)
    programs = fake.root / ".venv" / "bin"  # first on the path of what DVC starts
    programs.mkdir(parents=True)
    (programs / "nsync").symlink_to(root / "bin" / "nsync")
    return fake


def processes_of(fake: FakeWorkspace) -> dict[int, str]:
    """What runs in the workspace, by process id."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cwd").readlink().is_relative_to(fake.root):
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command:
                    found[int(place.name)] = command
        except OSError:
            continue
    return found


def edit_params(place: Workspace, before: str, after: str) -> None:
    text = place.params_file.read_text()
    assert text.count(before) == 1, before
    place.params_file.write_text(text.replace(before, after))
