"""The Dagster instance of a workspace: its history outlives every process.

Without a DAGSTER_HOME, Dagster keeps its history in a temporary folder and deletes it. The home is
in the workspace, and ``.env`` tells ``dagster dev`` where, for which the path must be absolute.
"""

import sys
from pathlib import Path

from nsync_pipeline.files import write_whole
from nsync_pipeline.workspace import Workspace

SETTINGS = """\
# Written once, by `nsync init` or `make setup`, and yours to change.
telemetry:
  enabled: false

# No dialog over the first page.
nux:
  enabled: false

# A run whose process was killed is found, marked as failed, and its place in a pool is freed.
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
  poll_interval_seconds: 30
  free_slots_after_run_end_seconds: 30

run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1

# Of steps that compute, as many run at once as the section `executor` of params.yaml lets: the
# sensor `workspace` gives the pool so many places. Until it has, one.
concurrency:
  pools:
    granularity: op
    default_limit: 1
"""
VARIABLE = "DAGSTER_HOME"


def write_home(workspace: Workspace) -> Path:
    """Make the home and ``.env`` where they are not there yet; gives the home's folder."""
    home = workspace.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.is_file():
        write_whole(settings, SETTINGS)
    _name_in_environment_file(workspace.root / ".env", home)
    return home


def _name_in_environment_file(path: Path, home: Path) -> None:
    """One line of ``.env``; the others stay as they are."""
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    after = [line for line in before if not line.startswith(f"{VARIABLE}=")]
    after.append(f"{VARIABLE}={home}")
    if after != before:
        write_whole(path, "\n".join(after) + "\n")


if __name__ == "__main__":
    write_home(Workspace(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
