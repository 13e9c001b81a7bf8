"""The Dagster instance of this workspace: its history outlives every process.

Without a DAGSTER_HOME, Dagster keeps its history in a temporary folder and deletes it. The home is
in the workspace, and ``.env`` tells ``dagster dev`` where, for which the path must be absolute.
"""

import os
from pathlib import Path

from dagster import DagsterInstance

from assets.place import WORKSPACE

SETTINGS = """\
# Written by `make setup`, and never again once it is there: yours to change.
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

# One step at a time uses the accelerator.
concurrency:
  pools:
    granularity: op
    default_limit: 1
"""
VARIABLE = "DAGSTER_HOME"


def write_home() -> Path:
    """Make the home and ``.env`` where they are not there yet; gives the home's folder."""
    home = WORKSPACE.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.is_file():
        settings.write_text(SETTINGS, encoding="utf-8")
    _name_in_environment_file(home)
    return home


def open_instance() -> DagsterInstance:
    """The instance of ``DAGSTER_HOME`` where that is set, else of this workspace."""
    home = os.environ.setdefault(VARIABLE, str(write_home()))
    return DagsterInstance.from_config(home)


def _name_in_environment_file(home: Path) -> None:
    """One line of ``.env``; the others stay as they are."""
    path = WORKSPACE.root / ".env"
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    after = [line for line in before if not line.startswith(f"{VARIABLE}=")]
    after.append(f"{VARIABLE}={home}")
    if after != before:
        path.write_text("\n".join(after) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_home()
