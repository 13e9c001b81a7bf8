"""``nsync ablate``: the settings of the section ``ablation`` compared on one style."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nsync_pipeline.cli.options import StyleArgument, WorkspaceOption, find_workspace
from nsync_pipeline.errors import UserError
from nsync_pipeline.terminal import ShownConsole

if TYPE_CHECKING:
    from nsync_pipeline.evaluation.record import EvaluationRecord
    from nsync_pipeline.graph.artefacts import Artefact, Graph
    from nsync_pipeline.graph.run import Outcome
    from nsync_pipeline.metrics.bootstrap import Interval
    from nsync_pipeline.params import Params


def ablate(
    style: StyleArgument,
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
    from nsync_pipeline.graph.ablation import check_ablation, pending, run_ablation
    from nsync_pipeline.graph.artefacts import AblationPart, Graph

    graph = Graph.read(place, AblationPart(*part_of(only, training_seeds)))
    params = graph.ablation_params
    check_ablation(graph, style)
    for note in graph.params.ablation_matrix().notes:
        print(note)
    variants, trained_with = len(params.variants), len(params.training_seeds)
    print(
        f"ablation of {style}: {_counted(variants, 'variant')}, "
        f"{_counted(trained_with, 'training seed')}, "
        f"{_counted(variants * trained_with, 'training')}",
        flush=True,
    )
    if dry_run:
        print_plan(params, pending(graph, style))
        return
    outcomes = run_ablation(graph, style, lambda line: print(line, flush=True))
    print_summary(graph, style, outcomes)


def part_of(
    only: str | None, training_seeds: str | None
) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None]:
    """The variants and training seeds of an ablation that are named; None: all."""
    seeds = None if training_seeds is None else _seeds(training_seeds)
    return None if only is None else tuple(name.strip() for name in only.split(",")), seeds


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) < 2**31 for part in parts):
        raise UserError(f"--training-seeds {text}: whole numbers with commas are needed: 0,1,2")
    return tuple(dict.fromkeys(map(int, parts)))


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


METRICS = {
    "style_margin": "style margin", "cmmd": "CMMD, lower is better",
    "prompt_fidelity": "prompt fidelity",
}  # fmt: skip

NOTHING = "nothing to make: all is up to date"
LINE = 120  # characters of a line where the output is no terminal


def print_plan(params: "Params", pending: "Sequence[Artefact]") -> None:
    """Each variant with what it changes, and what is still to be made."""
    table = _table("variant", "what it changes in `training`", "trainings to make")
    to_train = Counter(one.variant for one in pending if one.stage.name == "training")
    for name in params.variants:
        count = f"{to_train[name]} of {len(params.training_seeds)}"
        table.add_row(name, _changes(params, name), count)
    _print(table)
    first = [artefact.stage.name for artefact in pending if not artefact.of_ablation]
    if first:
        print(f"first brought up to date: {', '.join(first)}")
    print(f"trainings to make: {to_train.total()}" if pending else NOTHING)


def print_summary(graph: "Graph", style: str, outcomes: "Sequence[Outcome]") -> None:
    """The figures of each variant, the verdict on it, and where the rest is."""
    from nsync_pipeline.evaluation.record import read_evaluation
    from nsync_pipeline.report.stage import REPORT_FILE
    from nsync_pipeline.report.words import what_is_compared
    from nsync_pipeline.tracking.projection import ABLATION, ablation_group, experiment_of

    by_stage = {outcome.artefact.stage.name: outcome for outcome in outcomes}
    root = graph.workspace.root
    evaluation = read_evaluation(root / by_stage["evaluation"].artefact.path)
    _print(_figures(evaluation, list(graph.ablation_params.variants)))
    for told in (*evaluation.warnings, what_is_compared(evaluation.counts["trainings"])):
        print(told)
    report = by_stage["report"]
    print(report.made.figures["verdict"])
    new = [outcome for outcome in outcomes if outcome.is_new]
    trained = sum(outcome.artefact.stage.name == "training" for outcome in new)
    print(f"trained now: {trained}" if new else NOTHING)
    print(f"report: {root / report.artefact.path / REPORT_FILE}")
    experiment = experiment_of(replace(graph.workspace, of_ablation=True), style)
    group = ablation_group(asdict(by_stage["evaluation"].made))
    print(f"MLflow: experiment {experiment}, tags.`{ABLATION}` = '{group}'")


def verdicts(evaluation: "EvaluationRecord", baseline: str) -> dict[str, str]:
    """How each other variant stands to the baseline: better, worse, trade-off, inconclusive."""
    turned = {"better": "worse", "worse": "better"}
    found: dict[str, str] = {}
    for one in evaluation.comparisons:
        if one.b == baseline:
            found[one.a] = one.verdict
        elif one.a == baseline:
            found[one.b] = turned.get(one.verdict, one.verdict)
    return found


def _figures(evaluation: "EvaluationRecord", variants: Sequence[str]) -> Table:
    from nsync_pipeline.report.figures import digits_for

    baseline = variants[0]
    against = verdicts(evaluation, baseline)
    rows: dict[str, Mapping[str, Interval]] = {name: evaluation.variants[name] for name in variants}
    rows |= {f"{name}, untrained": figures for name, figures in evaluation.untrained.items()}
    rows |= {"real pictures": evaluation.ceiling}
    table = _table("variant", *METRICS.values(), f"against {baseline}")
    digits = {
        metric: digits_for(figures[metric].value for figures in rows.values() if metric in figures)
        for metric in METRICS
    }
    for name, figures in rows.items():
        cells = [_cell(figures.get(metric), digits[metric]) for metric in METRICS]
        table.add_row(name, *cells, "baseline" if name == baseline else against.get(name, ""))
    return table


def _cell(figure: "Interval | None", digits: int) -> str:
    from nsync_pipeline.report.figures import shown

    if figure is None:
        return ""
    text = shown(figure.value, digits)
    if figure.low is not None and figure.high is not None:
        text += f" ({shown(figure.low, digits)} to {shown(figure.high, digits)})"
    return text


def _changes(params: "Params", variant: str) -> str:
    from nsync_pipeline.settings import flat

    changes = flat(params.variants[variant].model_dump(mode="json"))
    shown_values = {n: v if isinstance(v, str) else json.dumps(v) for n, v in changes.items()}
    return ", ".join(f"{name} {value}" for name, value in shown_values.items())


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    width = None if ShownConsole().is_terminal else LINE
    ShownConsole(highlight=False, width=width).print(table)
