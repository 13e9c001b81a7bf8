"""``make demo``: a style whole, by the sensor ``keep_up_to_date``; what is fresh is left alone.

Dagster's daemon is started for as long as it takes, so the runs are those that the page shows.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster import DagsterEventType, DagsterInstance, DagsterRun

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import Artefact, Graph, Standing, State
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT, die_with_parent
from nsync_pipeline.graph.progress import running
from nsync_pipeline.workspace import Workspace

from .instance import VARIABLE, write_home
from .runs import (
    ATTEMPT,
    ATTEMPT_VARIABLE,
    FAILED,
    PARTITION,
    STYLES_VARIABLE,
    UNFINISHED,
    runs_of,
)  # fmt: skip

DEMO = "demo-"
"""How the attempts of demos begin."""
LOOK_EVERY = 1.0  # seconds
QUIET = 180.0
"""Seconds in which no run may be under way although something is out of date."""


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
            with sole_writer(workspace.lock("demo"), f"the style {style!r}"):
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
    os.environ.setdefault(VARIABLE, str(write_home(workspace)))
    attempt = f"{DEMO}{time.time_ns()}"
    with DagsterInstance.get() as instance:
        _end_abandoned_runs(instance)
        try:
            with _daemon(workspace, style, attempt) as daemon:
                _watch(workspace, style, instance, daemon, attempt, count)
        finally:
            _end_abandoned_runs(instance)


@contextmanager
def _daemon(workspace: Workspace, style: str, attempt: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Dagster's daemon, with the sensor on; it ends with this process."""
    environment = {
        **os.environ, STYLES_VARIABLE: style, ATTEMPT_VARIABLE: attempt, ENDS_WITH_PARENT: "1",
    }  # fmt: skip
    program = Path(sys.executable).with_name("dagster-daemon")
    with _log(workspace).open("wb") as file:
        daemon = subprocess.Popen(
            [str(program), "run", "-w", "workspace.yaml"],
            cwd=workspace.root, env=environment, stdout=file, stderr=file,
            preexec_fn=die_with_parent,
        )  # fmt: skip
    try:
        yield daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _log(workspace: Workspace) -> Path:
    return workspace.dagster_home / "demo.log"


def _watch(
    workspace: Workspace,
    style: str,
    instance: DagsterInstance,
    daemon: "subprocess.Popen[bytes]",
    attempt: str,
    count: int,
) -> None:
    said: dict[str, str] = {}
    active = time.monotonic()
    while True:
        time.sleep(LOOK_EVERY)
        left = len(_not_fresh(Graph.read(workspace).standings([style])))
        lines = running(workspace) | {"done": f"[{count - left} of {count} done]"}
        for slot, line in lines.items():
            if said.get(slot) != line:
                said[slot] = line
                print(line, flush=True)
        failed = runs_of(instance, FAILED, attempt)
        if any(run.tags.get(PARTITION, "").split("|")[0] == style
               for run in runs_of(instance, UNFINISHED)):  # fmt: skip
            active = time.monotonic()
        elif failed:
            raise UserError(_reason(instance, failed[0]))
        elif not left:
            return
        if daemon.poll() is not None or time.monotonic() - active > QUIET:
            raise UserError(f"Dagster's daemon does not go on; {_log(workspace)} says why")


def _not_fresh(standings: dict[Artefact, Standing]) -> list[Artefact]:
    return [a for a, standing in standings.items() if standing.state is not State.FRESH]


def _reason(instance: DagsterInstance, run: DagsterRun) -> str:
    """What the failed step said, rather than that it failed."""
    for record in instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE):
        if (event := record.dagster_event) is not None:
            said, error = event.step_failure_data.user_failure_data, event.step_failure_data.error
            reason = (said and said.description) or (error and error.message.strip())
            return f"{event.step_key}: {reason}"
    return f"Dagster's run {run.run_id} failed"


def _end_abandoned_runs(instance: DagsterInstance) -> None:
    """Mark the runs of demos that have no process any more as failed, and free their places.

    Only where no demo is under way in this workspace, which its lock says.
    """
    for run in runs_of(instance, UNFINISHED):
        if run.tags.get(ATTEMPT, "").startswith(DEMO):
            instance.report_run_failed(run, "The process of this run was ended.")
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
