"""What ``nsync ablate`` prints: what it would make, and what came out."""

import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from nsync_pipeline.artifacts import BASE
from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.params import Params
from nsync_pipeline.pipeline.ablation import SHARED, Ablation, Outcome, Step
from nsync_pipeline.pipeline.inputs import read_tree, tree_digest
from nsync_pipeline.pipeline.records import read_record
from nsync_pipeline.report.numbers import digits_for, shown
from nsync_pipeline.report.words import what_is_compared
from nsync_pipeline.stages.evaluation_files import EvaluationRecord, read_evaluation
from nsync_pipeline.stages.report import REPORT_FILE
from nsync_pipeline.tracking.placement import ABLATION, experiment_of
from nsync_pipeline.tracking.settings import flat

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
