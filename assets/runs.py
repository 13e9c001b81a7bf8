"""Dagster's runs: which are under way, and which of them belong together."""

import os
import time

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

STYLES_VARIABLE = "NSYNC_STYLES"
"""Names the styles that ``keep_up_to_date`` keeps so from the start: those of a demo."""
ATTEMPT_VARIABLE = "NSYNC_ATTEMPT"
THIS_ATTEMPT = os.environ.get(ATTEMPT_VARIABLE) or str(int(time.time()))
"""A run that failed is requested again only where the pages were started anew, or what it would
make changed."""
ATTEMPT, MADE_FROM = "nsync/attempt", "nsync/made_from"
"""Tags of the runs that ``keep_up_to_date`` requests."""
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
