"""``make demo``: a style whole, by the sensor ``keep_up_to_date``; what is fresh is left alone.

Dagster's daemon is started for as long as it takes, so the runs are those that the page shows.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import Artefact, Graph, Standing, State
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT, die_with_parent
from nsync_pipeline.graph.progress import running
from nsync_pipeline.workspace import Workspace

from .instance import VARIABLE, write_home

STYLES_VARIABLE, ATTEMPT_VARIABLE, ATTEMPT = "NSYNC_STYLES", "NSYNC_ATTEMPT", "nsync/attempt"
LOOK_EVERY = 1.0  # seconds
QUIET = 60.0
"""Seconds in which no run may be under way although something is out of date."""
ENDED = [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
UNFINISHED = [
    DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING,
]  # fmt: skip


def main() -> int:
    """Make what is out of date of one style, then say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--style", required=True, help="a style of params.yaml")
    style = parser.parse_args().style
    workspace, began = Workspace(Path.cwd().resolve()), time.monotonic()
    try:
        graph = Graph.read(workspace)
        graph.params.style(style)
        stale = _not_fresh(graph.standings([style]))
        if stale:
            with sole_writer(workspace.lock(f"demo-{style}"), f"the style {style!r}"):
                _make(workspace, style, len(stale))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    seconds = time.monotonic() - began
    print(f"{len(stale)} artefacts made" if stale else "Everything is fresh", f"({seconds:.0f} s)")
    _say_where(graph, style)
    return 0


def _make(workspace: Workspace, style: str, count: int) -> None:
    """Have Dagster make the style whole, and show how far it is.

    Raises:
        UserError: a run failed; the message is what its step said.
    """
    home = os.environ.setdefault(VARIABLE, str(write_home(workspace)))
    attempt = str(time.time_ns())
    with DagsterInstance.from_config(home) as instance:
        _end_abandoned_runs(instance)
        environment = {
            **os.environ, STYLES_VARIABLE: style, ATTEMPT_VARIABLE: attempt, ENDS_WITH_PARENT: "1",
            "NSYNC_WORKSPACE": str(workspace.root),
        }  # fmt: skip
        program = Path(sys.executable).with_name("dagster-daemon")
        with (workspace.dagster_home / "demo.log").open("wb") as file:
            daemon = subprocess.Popen(
                [str(program), "run", "-w", "workspace.yaml"],
                cwd=workspace.root, env=environment, stdout=file, stderr=file,
                preexec_fn=die_with_parent,
            )  # fmt: skip
        try:
            _watch(workspace, style, instance, daemon, attempt, count)
        finally:
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _watch(
    workspace: Workspace,
    style: str,
    instance: DagsterInstance,
    daemon: "subprocess.Popen[bytes]",
    attempt: str,
    count: int,
) -> None:
    said: dict[str, str] = {}
    quiet_since = time.monotonic()
    while True:
        time.sleep(LOOK_EVERY)
        for slot, line in running(workspace).items():
            if said.get(slot) != line:
                said[slot] = line
                print(line, flush=True)
        standings = Graph.read(workspace).standings([style])
        left = _not_fresh(standings)
        if said.get("left") != str(len(left)):
            said["left"] = str(len(left))
            print(f"[{count - len(left)} of {count} done]", flush=True)
        runs = instance.get_runs(RunsFilter(tags={ATTEMPT: attempt}))
        failed = [run for run in runs if run.status in ENDED]
        under_way = [run for run in runs if run.status in UNFINISHED]
        if failed and not under_way:
            raise UserError(_reason(instance, failed[0]))
        if not left and not under_way:
            return
        if under_way or runs == []:
            quiet_since = time.monotonic()
        if daemon.poll() is not None or time.monotonic() - quiet_since > QUIET:
            log = workspace.dagster_home / "demo.log"
            raise UserError(f"Dagster's daemon does not go on; {log} says why")


def _not_fresh(standings: dict[Artefact, Standing]) -> list[Artefact]:
    return [a for a, standing in standings.items() if standing.state is not State.FRESH]


def _reason(instance: DagsterInstance, run: DagsterRun) -> str:
    """What the failed step said, rather than that it failed."""
    for record in instance.all_logs(run.run_id):
        event = record.dagster_event
        if event is not None and event.is_step_failure:
            said = event.step_failure_data.user_failure_data
            if said is not None and said.description:
                return f"{event.step_key}: {said.description}"
            error = event.step_failure_data.error
            if error is not None:
                return f"{event.step_key}: {error.message.strip()}"
    return f"Dagster's run {run.run_id} failed"


def _end_abandoned_runs(instance: DagsterInstance) -> None:
    """Mark the runs of demos whose processes were killed as failed, and free their places.

    Only while holding the lock on the style: then no such run has a process.
    """
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        if ATTEMPT in run.tags and run.tags[ATTEMPT].isdecimal():
            instance.report_run_failed(run, "The process of this run was killed.")
            if instance.event_log_storage.supports_global_concurrency_limits:
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _say_where(graph: Graph, style: str) -> None:
    root = graph.workspace.root
    loras = [a for a in graph.artefacts(style) if a.stage.name == "training"]
    print(f"  report   {graph.workspace.report(style) / 'report.html'}")
    for label, lora in zip(("LoRAs", *[""] * len(loras)), loras, strict=False):
        print(f"  {label:8} {root / lora.path}")
    print("  pages    make ui: Dagster's runs and assets, MLflow's curves and comparisons")


if __name__ == "__main__":
    sys.exit(main())
