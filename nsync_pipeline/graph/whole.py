"""A style, or an ablation, made whole: as many artefacts at once as there are places for.

What DVC and Dagster also do. Where one at a time is made, that is done in this process.
"""

import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO

from nsync_pipeline.errors import ParamsError, WorkerError
from nsync_pipeline.graph.artefacts import WHOLE, AblationPart, Artefact, Graph, State
from nsync_pipeline.graph.made import MADE_FILE
from nsync_pipeline.graph.places import places_of
from nsync_pipeline.graph.processes import LOOK_EVERY, end_all, ended_error, start
from nsync_pipeline.graph.progress import Watch
from nsync_pipeline.graph.run import (
    Asked,
    Outcome,
    bring_up_to_date,
    require_own_engine,
    up_to_date,
)
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.workspace import Workspace

SHOW_EVERY = 1.0  # seconds
CLOCK = 10**9  # ns


def chosen(
    graph: Graph,
    style: str,
    variants: Collection[str] = (),
    training_seeds: Collection[int] = (),
    until: str | None = None,
) -> Iterator[Artefact]:
    """The artefacts of ``style``, each after what it is made from, with the trainings asked for.

    Where not all trainings are, what is made from all of them is left out, unless the others are
    up to date. No variants, or no training seeds, stands for all of them.

    Raises:
        ParamsError: there is no such style, variant, training seed or stage.
    """
    params = graph.params
    params.style(style)
    for variant in variants:
        params.variant(variant)
    for seed in training_seeds:
        params.training_seed(seed)
    if until is not None and until not in STAGES:
        raise ParamsError(f"{until!r} is not a stage; there are: {', '.join(STAGES)}")
    stages = list(STAGES)[: None if until is None else list(STAGES).index(until) + 1]
    standings = graph.standings([style])
    there = {a for a, standing in standings.items() if standing.state is State.FRESH}
    for artefact in standings:
        if artefact.stage.name not in stages:
            continue
        asked_for = artefact.training is None or (
            artefact.variant in (variants or params.variants)
            and artefact.training_seed in (training_seeds or params.training_seeds)
        )
        if asked_for and all(need in there for need in graph.needs(artefact)):
            there.add(artefact)
            yield artefact


def make_whole(
    workspace: Workspace,
    style: str,
    variants: Collection[str],
    training_seeds: Collection[int],
    until: str | None,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Make what is ``chosen`` and not up to date; raises as it and ``make_all`` do."""
    require_own_engine(workspace)
    artefacts = list(chosen(Graph.read(workspace), style, variants, training_seeds, until))
    return make_all(workspace, artefacts, say)


def make_all(
    workspace: Workspace,
    artefacts: Sequence[Artefact],
    say: Callable[[str], None],
    part: AblationPart = WHOLE,
) -> list[Outcome]:
    """Make those of ``artefacts`` that are not up to date, each after what it is made from.

    The settings are read anew for each: what is changed meanwhile counts from the next one on.
    When one fails none is started any more, and those under way are made to their end.

    Raises:
        UserError: one failed, as ``run_stage`` does.
    """
    places = places_of(Graph.read(workspace, part).params)
    if places.note:
        say(places.note)
    if places.count > 1:
        return _SideBySide(workspace, artefacts, say, part, places.count).make()
    outcomes = []
    for number, artefact in enumerate(artefacts, start=1):
        outcome = bring_up_to_date(Graph.read(workspace, part), artefact)
        outcomes.append(outcome)
        if outcome.is_new:
            say(f"[{number} of {len(artefacts)}] {artefact.title}")
            gc.collect()  # a model's memory, before the next one is loaded
    return outcomes


@dataclass(frozen=True)
class _Run:
    process: "subprocess.Popen[bytes]"
    errors: IO[bytes]  # what it says on stderr
    began: int  # ns since the epoch


@dataclass
class _SideBySide:
    """Several artefacts at once, each by a process of its own."""

    workspace: Workspace
    artefacts: Sequence[Artefact]
    say: Callable[[str], None]
    part: AblationPart
    most: int  # at once
    outcomes: dict[Artefact, Outcome] = field(default_factory=dict)
    failed: dict[Artefact, WorkerError] = field(default_factory=dict)

    def make(self) -> list[Outcome]:
        waiting = dict.fromkeys(self.artefacts)
        runs: dict[Artefact, _Run] = {}
        with ExitStack() as until_end:
            until_end.callback(lambda: end_all([run.process for run in runs.values()]))
            watch = until_end.enter_context(Watch(self.workspace))
            shown = time.monotonic()
            while runs or (waiting and not self.failed):
                ended = [a for a, run in runs.items() if run.process.poll() is not None]
                for artefact in ended:
                    self._end(artefact, runs.pop(artefact))
                if (ended or not runs) and not self.failed:
                    self._start(waiting, runs)
                if time.monotonic() - shown >= SHOW_EVERY:
                    shown = time.monotonic()
                    watch.look(self._status(), [a.slot for a in runs], said=True)
                if runs:
                    time.sleep(LOOK_EVERY)
        if self.failed:
            told = [f"{artefact.title}: {error}" for artefact, error in self.failed.items()]
            first = next(iter(self.failed.values()))
            raise WorkerError("\n".join(told), first.exit_code)
        return [self.outcomes[artefact] for artefact in self.artefacts]

    def _start(self, waiting: dict[Artefact, None], runs: dict[Artefact, _Run]) -> None:
        """Start what can be made now, in order; what is up to date counts as made."""
        graph = Graph.read(self.workspace, self.part)
        for artefact in list(waiting):
            if len(runs) >= self.most:
                return
            if any(need in waiting or need in runs for need in graph.needs(artefact)):
                continue
            del waiting[artefact]
            if (made := up_to_date(graph, artefact, self.say)) is not None:
                self.outcomes[artefact] = Outcome(artefact, made, is_new=False)
                continue
            asked = Asked(
                artefact.stage.name, artefact.style, artefact.variant, artefact.training_seed,
                artefact.of_ablation, part=self.part,
            )  # fmt: skip
            errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed when the run has ended
            began = time.time_ns()
            runs[artefact] = _Run(start(asked.command(self.workspace), errors), errors, began)

    def _end(self, artefact: Artefact, run: _Run) -> None:
        """Say how it went."""
        with run.errors:
            run.errors.seek(0)
            said = run.errors.read().decode(errors="replace")
        if run.process.returncode != 0:
            self.failed[artefact] = ended_error("its process", run.process.returncode, said)
            self.say(f"{artefact.title}: failed")
            return
        print(said, end="", file=sys.stderr)  # warnings, where there were any
        made = Graph.read(self.workspace, self.part).made(artefact)
        assert made is not None, "its process made it, or found it up to date"
        written = (self.workspace.root / artefact.path / MADE_FILE).stat().st_mtime_ns
        # What is brought back was written earlier; a file system's clock may be a little behind.
        is_new = written > run.began - CLOCK
        self.outcomes[artefact] = Outcome(artefact, made, is_new)
        if is_new:
            self.say(self._status() + f" {artefact.title}")

    def _status(self) -> str:
        status = f"[{len(self.outcomes)} of {len(self.artefacts)}]"
        return f"{status} nothing more is started" if self.failed else status
