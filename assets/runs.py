"""Dagster's runs: which are under way, which belong together, and what a demo asks for."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from nsync_pipeline.files import read_json, write_whole
from nsync_pipeline.workspace import Workspace

ATTEMPT_VARIABLE = "NSYNC_ATTEMPT"
"""Says when the daemon was started; the code location itself is loaded again and again."""
THIS_ATTEMPT = os.environ.get(ATTEMPT_VARIABLE) or str(int(time.time()))
"""A run that failed is requested again only where the daemon was started anew, or what it would
make changed."""
ATTEMPT, MADE_FROM = "nsync/attempt", "nsync/made_from"
"""Tags of the runs that a sensor requested."""
PARTITION = "dagster/partition"

UNFINISHED = [
    DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING,
]  # fmt: skip
FAILED = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


def runs_of(
    instance: DagsterInstance, statuses: list[DagsterRunStatus], attempt: str | None = None
) -> list[DagsterRun]:
    """The runs that stand so, newest first; of one attempt, or of all."""
    tags = {} if attempt is None else {ATTEMPT: attempt}
    records = instance.get_run_records(RunsFilter(statuses=statuses, tags=tags))
    return [record.dagster_run for record in records]


def reason_of(instance: DagsterInstance, run: DagsterRun) -> str:
    """What the failed step said, rather than that it failed."""
    for record in instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE):
        if (event := record.dagster_event) is not None:
            said, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
            reason = (said and said.description) or (error and error.message.strip())
            return f"{event.step_key}: {reason}"
    return f"Dagster's run {run.run_id} failed"


@dataclass(frozen=True)
class Demo:
    """What a demo asks of the daemon, for as long as its process lives."""

    style: str
    attempt: str
    process: int
    trainings: tuple[str, ...] = ()  # only these, as `nsync-0`; empty: all


def _demo_file(workspace: Workspace) -> Path:
    return workspace.dagster_home / "demo.json"


@contextmanager
def asked_for(workspace: Workspace, demo: Demo) -> Iterator[None]:
    """Have the sensor ``demo`` see it."""
    file = _demo_file(workspace)
    write_whole(file, json.dumps(asdict(demo)))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def demo_under_way(workspace: Workspace) -> Demo | None:
    """What is asked for now."""
    try:
        content = read_json(_demo_file(workspace))
        demo = Demo(**{**content, "trainings": tuple(content["trainings"])})
        os.kill(demo.process, 0)
    except (OSError, ValueError, KeyError, TypeError):  # nothing is, or who asked was killed
        return None
    return demo
