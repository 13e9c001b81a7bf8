"""``make demo``: a style whole, by the sensor ``demo``; what is fresh is left alone.

With ``--variant`` and ``--training-seed`` only these trainings, as ``nsync make`` has it.

The daemon of the pages does it where they are open; else one is started for as long as it takes.
"""

import os
import signal
import sys

STOPPED = "Stopped; the same command goes on from here."
INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""

if __name__ == "__main__":  # what is imported below takes seconds, and nothing is started yet
    signal.signal(
        signal.SIGINT, lambda *_: (print(STOPPED, file=sys.stderr), os._exit(INTERRUPTED))
    )

import argparse
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from dagster import DagsterInstance

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import Artefact, Graph, State
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.graph.places import SLOTS, places_of
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT, die_with_parent
from nsync_pipeline.graph.progress import Watch
from nsync_pipeline.graph.whole import chosen
from nsync_pipeline.ranks import usable_cores
from nsync_pipeline.terminal import only_shown
from nsync_pipeline.workspace import SKETCHBOOK, Workspace

from .daemon import start_daemon
from .instance import VARIABLE, write_home
from .runs import ATTEMPT, FAILED, PARTITION, UNFINISHED, Demo, asked_for, reason_of, runs_of

LOG = "demo.log"
DEMO = "demo-"
"""How the attempts of demos begin."""
LOOK_EVERY = 2.0  # seconds
QUIET = 180.0
"""Seconds in which no run may be under way although something is out of date."""


def main() -> int:
    """Make what is out of date of one style, then say where everything is."""
    if ENDS_WITH_PARENT in os.environ:
        die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--style", required=True, help="a style of params.yaml")
    parser.add_argument("--variant", action="append", default=[], help="only this one")
    parser.add_argument("--training-seed", action="append", default=[], type=int)
    asked = parser.parse_args()
    style = asked.style
    workspace, began = Workspace(Path.cwd().resolve()), time.monotonic()
    try:
        graph = Graph.read(workspace)
        artefacts = list(chosen(graph, style, asked.variant, asked.training_seed))
        stale = _not_fresh(graph, artefacts)
        if stale:
            with sole_writer(workspace.lock("demo"), f"the style {style!r}"):
                _make(workspace, style, artefacts, len(stale))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return INTERRUPTED
    seconds = time.monotonic() - began
    print(f"{len(stale)} artefacts made" if stale else "Everything is fresh", f"({seconds:.0f} s)")
    _say_where(graph, style)
    return 0


def _make(workspace: Workspace, style: str, artefacts: list[Artefact], count: int) -> None:
    """Have Dagster make the style whole, and show how far it is.

    Raises:
        UserError: a run failed; the message is what its step said.
    """
    os.environ.setdefault(VARIABLE, str(write_home(workspace)))
    trainings = {a.training: None for a in artefacts if a.training is not None}
    demo = Demo(style, f"{DEMO}{time.time():.0f}", os.getpid(), tuple(trainings))
    with DagsterInstance.get() as instance, asked_for(workspace, demo):
        daemon = None
        try:
            with (workspace.dagster_home / LOG).open("wb") as log, ExitStack() as until_end:
                slots = {SLOTS: "2"} if _two_at_once(Graph.read(workspace)) else {}
                daemon = start_daemon(workspace, until_end, log, slots)
                if daemon is not None:
                    _end_abandoned_runs(instance)
                watch = until_end.enter_context(Watch(workspace))
                _watch(workspace, demo, artefacts, instance, daemon, count, watch)
        finally:
            if daemon is not None:
                _end_abandoned_runs(instance)


def _two_at_once(graph: Graph) -> bool:
    """Whether two steps side by side, on half of the cores each, are done sooner than in turn.

    Of the embedded base they are: its operations are too small to be shared by cores. Of a larger
    one two may not fit in memory. Where the settings say how many, they do.
    """
    if graph.params.executor.slots is not None or SLOTS in os.environ:
        return False
    places = places_of(graph.params)
    return not places.devices and graph.params.base_model.name == SKETCHBOOK and usable_cores() > 1


def _watch(
    workspace: Workspace,
    demo: Demo,
    artefacts: list[Artefact],
    instance: DagsterInstance,
    daemon: "subprocess.Popen[bytes] | None",
    count: int,
    watch: Watch,
) -> None:
    active = time.monotonic()
    while True:
        time.sleep(LOOK_EVERY)
        left = len(_not_fresh(Graph.read(workspace), artefacts))
        watch.look(f"[{count - left} of {count} done]")
        unfinished = runs_of(instance, UNFINISHED)
        failed = runs_of(instance, FAILED, demo.attempt)
        if demo.style in [run.tags.get(PARTITION, "").split("|")[0] for run in unfinished]:
            active = time.monotonic()
        elif failed:
            raise UserError(reason_of(instance, failed[0]))
        elif not left:
            return
        ended = daemon is not None and daemon.poll() is not None
        if ended or time.monotonic() - active > QUIET:
            log = workspace.dagster_home / LOG
            raise UserError(f"Dagster's daemon does not go on; {log} says why")


def _not_fresh(graph: Graph, artefacts: list[Artefact]) -> list[Artefact]:
    standings = graph.standings(list({artefact.style: None for artefact in artefacts}))
    return [a for a in artefacts if standings[a].state is not State.FRESH]


def _end_abandoned_runs(instance: DagsterInstance) -> None:
    """Mark the runs of demos that have no process any more as failed, and free their places.

    Only while this demo has a daemon of its own: what another's started may have its process.
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
    with only_shown():
        sys.exit(main())
