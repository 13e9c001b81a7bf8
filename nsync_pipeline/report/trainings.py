"""How each training went: its curves, its warnings, and what it drew on the way."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsync_pipeline.adaptation.saved_steps import own_step, saved_steps
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import read_json
from nsync_pipeline.pictures.embedded import Picture, as_stored
from nsync_pipeline.report.charts import Chart, Line, line_chart
from nsync_pipeline.workspace import STRIP_FILE, TrainingRun, Workspace

Summaries = Mapping[TrainingRun, Mapping[str, Any]]
"""``training.json`` of each training."""


@dataclass(frozen=True)
class Training:
    variant: str
    history: Sequence[Mapping[str, float | None]]  # a row a step; None: a branch is not there
    held_out: Mapping[int, float]  # loss on held-out pictures by steps done
    looks: Mapping[int, float] = field(default_factory=dict)  # style margin by steps done


def read_training(
    workspace: Workspace, style: str, run: TrainingRun
) -> tuple[Training, dict[str, Any]]:
    """The history of a training, and the whole of its ``training.json``.

    Raises:
        MissingArtifactError: one of them is missing or damaged.
    """
    folder = workspace.model(style, run.variant, run.training_seed)
    try:
        summary: dict[str, Any] = read_json(folder / "training.json")
        with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
            history = [
                {column: float(cell) if cell else None for column, cell in row.items()}
                for row in csv.DictReader(file)
            ]
        held_out = {int(done): loss for done, loss in summary["held_out_losses"].items()}
        looks = {int(done): look["style_margin"] for done, look in summary["looks"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise MissingArtifactError(
            f"{folder} holds no whole training: run the training stage of {run.variant!r} at "
            f"training seed {run.training_seed}. ({error})"
        ) from error
    return Training(run.variant, history, held_out, looks), summary


def shown_names(runs: Sequence[TrainingRun]) -> dict[TrainingRun, str]:
    """What each training is called on a page: by its variant alone where that has only one."""
    seeds = {run.training_seed for run in runs}
    return {run: run.variant if len(seeds) == 1 else run.name for run in runs}


def training_notes(summaries: Summaries, variants: Sequence[str]) -> list[tuple[str, int, str]]:
    """The warnings of all trainings, by training, then by step: name, colour, text."""
    names = shown_names(tuple(summaries))
    notes = []
    for run, summary in summaries.items():
        for warning in summary["warnings"]:
            text = f"from step {warning['step']} on, {warning['text']}"
            notes.append((names[run], variants.index(run.variant), text))
    return notes


def film_strips(
    workspace: Workspace,
    style: str,
    summaries: Summaries,
    training_seed: int,
    places: Mapping[TrainingRun, Path],
) -> list[tuple[str, int, Picture, str]]:
    """The film-strips there are of one seed's trainings: variant, colour, picture, text.

    ``places`` are the folders of the weights that are used of each training.
    """
    strips = []
    for colour, run in enumerate(r for r in summaries if r.training_seed == training_seed):
        model = workspace.model(style, run.variant, run.training_seed)
        file = model / STRIP_FILE
        if file.is_file():
            alt = f"What {run.variant} drew, a row a caption, a column a look; the first column is "
            picture = as_stored(file.read_bytes(), alt + "real")
            text = f"{_scores(summaries[run])} {_saved(style, run, model, places[run])}".strip()
            strips.append((run.variant, colour, picture, text))
    return strips


def _saved(style: str, run: TrainingRun, model: Path, place: Path) -> str:
    """Which weights there are to choose from, and which is chosen."""
    if place != model:
        return f"What was saved after step {int(place.name)} was chosen, and is used."
    steps = [str(step) for step in saved_steps(model) if step != own_step(model)]
    if not steps:
        return ""
    return (
        f"Weights were saved after step {', '.join(steps)}, too: `nsync choose {style} --variant "
        f"{run.variant} --training-seed {run.training_seed} --step {steps[-1]}` uses them."
    )


def _scores(summary: Mapping[str, Any]) -> str:
    """The best look in words, and whether it can be told from the last."""
    looks, best = summary["looks"], summary["best_look"]
    if best is None:
        return ""
    margin = f"{looks[str(best['step'])]['style_margin']:+.3f}"
    if best["step"] == max(int(step) for step in looks):
        return f"The last look has the highest style margin, {margin}."
    lead = f"{best['lead_over_last']:.3f}"
    if best["standard_error"] is not None:
        lead += f" (standard error {best['standard_error']:.3f})"
    sure = "" if best["told_apart"] else ", which so few pictures cannot tell from chance"
    return (
        f"The highest style margin, {margin}, is at step {best['step']}; it leads the last by "
        f"{lead}{sure}."
    )


@dataclass(frozen=True)
class _Curve:
    column: str
    title: str
    meaning: str
    zero: bool = True
    over: str | None = None  # divided by this column
    noisy: bool = True

    def points(self, training: Training) -> tuple[tuple[float, float], ...]:
        points = []
        for row in training.history:
            step, value = row["step"], row.get(self.column)
            under = 1.0 if self.over is None else row[self.over]
            if step is not None and value is not None and under:
                points.append((step, value / under))
        return tuple(points)


_CURVES = (
    _Curve("loss_positive", "Loss on style pictures", "What training brings down.", zero=False),
    _Curve(
        "loss_negative", "Loss on negatives",
        "Grows as the style's word stops meaning a generic picture.",
    ),
    _Curve(
        "cosine_negative", "Cosine of style and negative gradients",
        "Above 0 they pull the same way; that part is what the method removes.",
    ),
    _Curve(
        "cosine_anchor", "Cosine of style and anchor gradients",
        "How far two style pictures agree; that part the anchor term adds again.",
    ),
    _Curve("share_removed", "Share of the gradient removed", "0 is plain training."),
    _Curve("norm_positive", "Length of the style gradient", "Before anything is removed."),
    _Curve(
        "norm_negative", "Negative over style gradient", "The lengths' ratio.", over="norm_positive"
    ),
    _Curve("norm_refined", "Length of the refined gradient", "Before it is clipped."),
    _Curve(
        "cosine_estimate", "Cosine of a negative gradient with the running estimate",
        "How much of one step's negatives the estimate knew before it.",
    ),
    _Curve("learning_rate", "Learning rate", "Of the denoiser's weights.", noisy=False),
)  # fmt: skip


def training_charts(trainings: Sequence[Training]) -> list[Chart]:
    """A chart a quantity; what no variant has (an anchor, say) has no chart."""
    charts = []
    for curve in _CURVES:
        lines = [
            Line(training.variant, colour, points, curve.noisy, marked=False)
            for colour, training in enumerate(trainings)
            if (points := curve.points(training))
        ]
        if any(value for line in lines for _, value in line.points):
            charts.append(_chart(curve.title, curve.meaning, lines, curve.zero))
    looks = _marked(trainings, [training.looks for training in trainings])
    if looks:
        meaning = "Of a few pictures of training captions: nearer to the style above 0."
        charts.insert(1, _chart("Style margin of the looks", meaning, looks))
    held_out = _marked(trainings, [training.held_out for training in trainings])
    if held_out:
        meaning = "Always at the same noise: when it rises, training has gone too far."
        charts.insert(1, _chart("Loss on held-out pictures", meaning, held_out))
    return charts


def _marked(trainings: Sequence[Training], values: Sequence[Mapping[int, float]]) -> list[Line]:
    return [
        Line(training.variant, colour, tuple(sorted(of_steps.items())), noisy=False)
        for colour, (training, of_steps) in enumerate(zip(trainings, values, strict=True))
        if of_steps
    ]


def _chart(title: str, meaning: str, lines: Sequence[Line], zero: bool = False) -> Chart:
    ends = ", ".join(
        f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines
    )
    return Chart(title, meaning, line_chart(f"{title} over the steps: {ends}.", lines, zero))
