"""Runs of this workspace whose process was killed: they would look alive, and hold their pool."""

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

TAG = "nsync/whole_style"
"""On every run that is started by ``whole_style``: the style."""
UNFINISHED = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]


def end_abandoned_runs(instance: DagsterInstance, style: str) -> int:
    """Mark them as failed and free their places; gives how many there were.

    Call it only while holding the lock on the style: then no such run has a process.
    """
    runs = instance.get_runs(RunsFilter(tags={TAG: style}, statuses=UNFINISHED))
    for run in runs:
        instance.report_run_failed(run, "The process of this run was killed.")
        if instance.event_log_storage.supports_global_concurrency_limits:
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return len(runs)
