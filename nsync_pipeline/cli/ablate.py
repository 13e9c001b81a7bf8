"""``nsync ablate``: the settings of the section ``ablation`` compared on one style."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR
from rich.console import Console
from rich.table import Table

from nsync_pipeline.cli.options import WorkspaceOption, find_workspace
from nsync_pipeline.errors import UserError
from nsync_pipeline.evaluation.record import EvaluationRecord, read_evaluation
from nsync_pipeline.graph.ablation import SHARED, Ablation, Outcome, Step
from nsync_pipeline.graph.inputs import read_tree, tree_digest
from nsync_pipeline.graph.processes import die_with_parent
from nsync_pipeline.graph.records import read_record
from nsync_pipeline.graph.run import make_artefact
from nsync_pipeline.graph.table import Place, Stage
from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.params import Params, read_params
from nsync_pipeline.report.figures import digits_for, shown
from nsync_pipeline.report.stage import REPORT_FILE
from nsync_pipeline.report.words import what_is_compared
from nsync_pipeline.tracking.placement import ABLATION, experiment_of
from nsync_pipeline.tracking.settings import flat
from nsync_pipeline.workspace import BASE, Workspace

if TYPE_CHECKING:
    from nsync_pipeline.graph.ablation import Ablation
    from nsync_pipeline.params import Params


def ablate(
    style: Annotated[str, typer.Argument(help="A style of params.yaml.")],
    only: Annotated[
        str | None, typer.Option(metavar="V,V", help="Only these variants, with commas between.")
    ] = None,
    training_seeds: Annotated[
        str | None,
        typer.Option(metavar="K,K", help="Other seeds than ablation.training_seeds says."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained.")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Train every variant of the section `ablation` on a style, and compare them in one report."""
    place = find_workspace(workspace)
    from nsync_pipeline.cli.ablate import make_shared
    from nsync_pipeline.graph.ablation import Ablation, Asked, pending_steps, run_ablation

    seeds = None if training_seeds is None else _seeds(training_seeds)
    names = None if only is None else tuple(name.strip() for name in only.split(","))
    ablation = Ablation(place, style, Asked(names, seeds))
    params = ablation.params()
    for note in params.ablation_matrix().notes:
        print(note)
    print(_counted(ablation, params), flush=True)
    from nsync_pipeline.cli.ablate import print_plan, print_summary

    if dry_run:
        print_plan(params, pending_steps(ablation, params))
        return
    outcome = run_ablation(ablation, make_shared)
    print_summary(ablation, params, outcome)


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) < 2**31 for part in parts):
        raise UserError(f"--training-seeds {text}: whole numbers with commas are needed: 0,1,2")
    seeds = tuple(int(part) for part in parts)
    return tuple(dict.fromkeys(seeds))


def _counted(ablation: "Ablation", params: "Params") -> str:
    variants, seeds = len(params.variants), len(params.training_seeds)
    return (
        f"ablation of {ablation.style}: {variants} {_plural('variant', variants)}, "
        f"{seeds} training {_plural('seed', seeds)}, "
        f"{variants * seeds} {_plural('training', variants * seeds)}"
    )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


METRICS = {
    "style_margin": "style margin", "cmmd": "CMMD, lower is better",
    "prompt_fidelity": "prompt fidelity",
}  # fmt: skip

NOTHING = "nothing to make: all is up to date"

LINE = 120
"""Characters of a line where the output is no terminal."""


def print_plan(params: Params, pending: Sequence[Step]) -> None:
    """Each variant with what it changes, and what is still to be made."""
    table = _table("variant", "what it changes in `training`", "trainings to make")
    to_train = [step.place.variant for step in pending if step.stage.name == "training"]
    for name in params.variants:
        count = f"{to_train.count(name)} of {len(params.training_seeds)}"
        table.add_row(name, _changes(params, name), count)
    _print(table)
    first = [step.stage.name for step in pending if step.stage.name in SHARED]
    if first:
        print(f"first brought up to date: {', '.join(first)}")
    print(f"trainings to make: {len(to_train)}" if pending else NOTHING)


def print_summary(ablation: Ablation, params: Params, outcome: Outcome) -> None:
    """The figures of each variant, the verdict on it, and where the rest is."""
    evaluation = read_evaluation(outcome.evaluation)
    _print(_figures(evaluation, list(params.variants)))
    for told in (*evaluation.warnings, what_is_compared(evaluation.counts["trainings"])):
        print(told)
    headline = read_record(ablation.workspace, tree_digest(read_tree(outcome.report)))
    if headline is not None:
        print(headline.figures["verdict"])
    trained = sum(step.stage.name == "training" for step in outcome.made)
    print(f"trained now: {trained}" if outcome.made else NOTHING)
    print(f"report: {outcome.report / REPORT_FILE}")
    experiment = experiment_of(ablation.own, ablation.style)
    print(f"MLflow: experiment {experiment}, tags.`{ABLATION}` = '{outcome.group}'")


def verdicts(evaluation: EvaluationRecord, baseline: str) -> dict[str, str]:
    """How each other variant stands to the baseline: better, worse, trade-off, inconclusive."""
    turned = {"better": "worse", "worse": "better"}
    found: dict[str, str] = {}
    for one in evaluation.comparisons:
        if one.b == baseline:
            found[one.a] = one.verdict
        elif one.a == baseline:
            found[one.b] = turned.get(one.verdict, one.verdict)
    return found


def _figures(evaluation: EvaluationRecord, variants: Sequence[str]) -> Table:
    baseline = variants[0]
    against = verdicts(evaluation, baseline)
    rows: dict[str, Mapping[str, Interval]] = {name: evaluation.variants[name] for name in variants}
    rows |= {f"{BASE}, untrained": evaluation.base, "real pictures": evaluation.ceiling}
    table = _table("variant", *METRICS.values(), f"against {baseline}")
    digits = {
        metric: digits_for(figures[metric].value for figures in rows.values() if metric in figures)
        for metric in METRICS
    }
    for name, figures in rows.items():
        cells = [_cell(figures.get(metric), digits[metric]) for metric in METRICS]
        table.add_row(name, *cells, "baseline" if name == baseline else against.get(name, ""))
    return table


def _cell(figure: Interval | None, digits: int) -> str:
    if figure is None:
        return ""
    text = shown(figure.value, digits)
    if figure.low is None or figure.high is None:
        return text
    return f"{text} ({shown(figure.low, digits)} to {shown(figure.high, digits)})"


def _changes(params: Params, variant: str) -> str:
    changes = flat(params.variants[variant].model_dump(mode="json"))
    shown_values = {n: v if isinstance(v, str) else json.dumps(v) for n, v in changes.items()}
    return ", ".join(f"{name} {value}" for name, value in shown_values.items())


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LINE)
    console.print(table)


OWN_LINE = (DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR)
"""The line to Dagster is this process's: another that opened it would close it at its end."""


def make_shared(stage: Stage, place: Place) -> None:
    """By DVC where the workspace has it, which may know that nothing is to be done; else here.

    Raises:
        UserError: it failed.
    """
    if is_dvc_repository(place.workspace):
        _repro(place.workspace, f"{stage.name}@{place.style}")
    else:
        make_artefact(stage, place, read_params, None)


def is_dvc_repository(workspace: Workspace) -> bool:
    """DVC is installed, and tracks this workspace."""
    root = workspace.root
    tracked = (root / ".dvc").is_dir() and (root / "dvc.yaml").is_file()
    return tracked and find_spec("dvc") is not None


def _repro(workspace: Workspace, stage: str) -> None:
    programs = f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}"
    environment = {name: v for name, v in os.environ.items() if name not in OWN_LINE}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--quiet", "--single-item",
         stage],
        cwd=workspace.root,
        env=environment | {"PATH": programs},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.strip() or f"it ended with {done.returncode}"
        raise UserError(f"`dvc repro --single-item {stage}` failed: {said}")
