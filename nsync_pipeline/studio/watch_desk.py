"""What is to be seen of trainings while they run and after: curves, looks, how far they are."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from nsync_pipeline.adaptation.saved_steps import (
    ChosenStep,
    chosen_weights,
    own_step,
    saved_steps,
    weights_of_step,
)
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import read_json
from nsync_pipeline.graph.artefacts import Artefact, Graph, Standing, State
from nsync_pipeline.report.charts import Line, line_chart
from nsync_pipeline.workspace import TrainingRun, Workspace

POINTS = 400  # of a curve; of a longer one every n-th is drawn
LIVE, OF_ARTEFACT = "live", "artefact"


@dataclass(frozen=True)
class Look:
    """What a training drew after some steps."""

    step: int
    file: str  # relative to the training's folder
    style_margin: float | None


@dataclass(frozen=True)
class LookPrompt:
    """What is drawn at every look: a row of the film."""

    prompt: str
    own: bool  # a person's, and not a training caption


@dataclass(frozen=True)
class SavedStep:
    """Weights that a training saved, to choose from."""

    step: int
    is_last: bool
    is_used: bool
    look: Look | None  # what they drew


@dataclass(frozen=True)
class WatchedTraining:
    """One training, under way or done."""

    run: TrainingRun
    colour: int
    state: str  # running, done, stopped, waiting
    where: str = OF_ARTEFACT
    version: int = 0  # another where it was trained anew: browsers keep its pictures
    steps: int = 0
    line: str = ""  # what it said last of how far it is
    losses: tuple[tuple[float, float], ...] = ()
    held_out: tuple[tuple[float, float], ...] = ()
    margins: tuple[tuple[float, float], ...] = ()
    looks: tuple[Look, ...] = ()
    prompts: tuple[LookPrompt, ...] = ()  # of each look; empty where it is not said
    saved: tuple[SavedStep, ...] = ()  # empty where there is nothing to choose
    choice_problem: str = ""  # why what was chosen cannot be used
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """An artefact in the queue."""

    artefact: Artefact
    state: str  # done, running, waiting
    line: str = ""


@dataclass(frozen=True)
class Curves:
    """Charts over all trainings, as SVG."""

    charts: tuple[tuple[str, str], ...] = ()  # title and SVG
    names: tuple[tuple[str, int], ...] = field(default=())  # of the trainings in them, and colours


def queue(graph: Graph, standings: dict[Artefact, Standing], lines: dict[str, str]) -> list[Row]:
    """What a style is made of, each after what it is made from, and how it stands."""
    rows = []
    for artefact, standing in standings.items():
        if (line := lines.get(artefact.slot)) is not None:
            rows.append(Row(artefact, "running", line.partition(": ")[2]))
        else:
            rows.append(Row(artefact, "done" if standing.state is State.FRESH else "waiting"))
    return rows


def folder_of(workspace: Workspace, style: str, run: TrainingRun, where: str) -> Path:
    """Where a training's curves and looks lie, while it runs or afterwards."""
    if where == LIVE:
        return workspace.scratch("live", style, run.variant, str(run.training_seed))
    return workspace.model(style, run.variant, run.training_seed)


def watched(
    graph: Graph, style: str, standings: dict[Artefact, Standing], lines: dict[str, str]
) -> list[WatchedTraining]:
    """Every training of a style."""
    found = []
    variants = list(graph.params.variants)
    for artefact, standing in standings.items():
        if artefact.stage.name != "training":
            continue
        assert artefact.variant is not None
        assert artefact.training_seed is not None
        run = TrainingRun(artefact.variant, artefact.training_seed)
        line = lines.get(artefact.slot)
        folders = {w: folder_of(graph.workspace, style, run, w) for w in (LIVE, OF_ARTEFACT)}
        # What a training writes on the way stays behind: the artefact's is newer once it is there.
        ages = {where: _written(folder / "history.csv") for where, folder in folders.items()}
        where = LIVE if ages[LIVE] > ages[OF_ARTEFACT] else OF_ARTEFACT
        folder = folders[where]
        there = (folder / "history.csv").is_file()
        state = "waiting"
        if line is not None:
            state = "running"
        elif standing.state is State.FRESH:
            state = "done"
        elif there:
            state = "stopped" if where == LIVE else "out of date"
        losses = _table(folder / "history.csv", "step", "loss_positive")
        margins = _points(folder, where, "looks", "style_margin")
        looks = _looks(folder, margins)
        chosen = graph.params.style(style).use_steps.get(run.name)
        saved, problem = _saved(folder, run, chosen, looks) if where == OF_ARTEFACT else ((), "")
        found.append(
            WatchedTraining(
                run=run,
                colour=variants.index(run.variant),
                state=state,
                where=where,
                version=_version(folder),
                steps=int(losses[-1][0]) if losses else 0,
                line=line.partition(": ")[2] if line else "",
                losses=losses,
                held_out=_points(folder, where, "held_out", "loss"),
                margins=margins,
                looks=looks,
                prompts=look_prompts(folder),
                saved=saved,
                choice_problem=problem,
                warnings=_warnings(folder),
            )
        )
    return found


def _version(folder: Path) -> int:
    """When a training's looks began."""
    return int(_written(folder / "looks" / "prompts.json"))


def _written(path: Path) -> float:
    """When a file was written; 0 where it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def curves(trainings: Sequence[WatchedTraining], names: dict[TrainingRun, str]) -> Curves:
    """Loss, held-out loss and style score of all trainings, each in its variant's colour."""
    shown = [t for t in trainings if t.losses]
    if not shown:
        return Curves()

    def lines(column: str, noisy: bool) -> list[Line]:
        return [
            Line(names[t.run], t.colour, _thinned(points), noisy=noisy)
            for t in shown
            if (points := getattr(t, column))
        ]

    charts = []
    for title, column, noisy in (
        ("Loss", "losses", True),
        ("Loss on held-out pictures", "held_out", False),
        ("Style score of the looks", "margins", False),
    ):
        if drawn := lines(column, noisy):
            charts.append((title, line_chart(title, drawn, zero=column == "margins")))
    return Curves(tuple(charts), tuple((names[t.run], t.colour) for t in shown))


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    every = max(1, len(points) // POINTS)
    return tuple(points[::every])


def _table(path: Path, x: str, y: str) -> tuple[tuple[float, float], ...]:
    """Two columns of a table that may be written at this moment; rows without a value are not."""
    points = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                try:
                    points.append((float(row[x]), float(row[y])))
                except (ValueError, KeyError, TypeError):
                    continue
    except OSError:
        return ()
    return tuple(points)


def _summary(folder: Path) -> dict[str, object]:
    try:
        content = read_json(folder / "training.json")
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _points(folder: Path, where: str, name: str, column: str) -> tuple[tuple[float, float], ...]:
    """What was measured now and then, by step: of a table on the way, of the summary afterwards."""
    if where == LIVE:
        return _table(folder / f"{name}.csv", "step", column)
    said = _summary(folder).get("held_out_losses" if name == "held_out" else name)
    pairs = said.items() if isinstance(said, dict) else ()
    values = ((step, one[column] if isinstance(one, dict) else one) for step, one in pairs)
    return tuple(sorted((float(step), float(value)) for step, value in values))


def _looks(folder: Path, margins: Sequence[tuple[float, float]]) -> tuple[Look, ...]:
    by_step = {int(step): margin for step, margin in margins}
    files = sorted((folder / "looks").glob("[0-9]*.jpg"))
    return tuple(
        Look(int(file.stem), f"looks/{file.name}", by_step.get(int(file.stem))) for file in files
    )


def look_prompts(folder: Path) -> tuple[LookPrompt, ...]:
    """What each picture of a training's looks was asked for; empty where that is not said."""
    try:
        said = read_json(folder / "looks" / "prompts.json")
        return tuple(LookPrompt(str(one["prompt"]), bool(one["own"])) for one in said)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _saved(
    model: Path, run: TrainingRun, chosen: ChosenStep | None, looks: Sequence[Look]
) -> tuple[tuple[SavedStep, ...], str]:
    """What a training saved, and why its choice cannot be used; nothing where it saved its last."""
    steps, problem = saved_steps(model), ""
    if len(steps) < 2 and chosen is None:
        return (), ""
    try:
        used = chosen_weights(model, chosen, run.name)
    except MissingArtifactError as error:
        used, problem = None, str(error)
    last, drawn = own_step(model), {look.step: look for look in looks}
    saved = [
        SavedStep(step, step == last, weights_of_step(model, step) == used, drawn.get(step))
        for step in steps
    ]
    return tuple(saved), problem


def cell_of(grid: bytes, place: int, count: int) -> bytes | None:
    """The picture of the ``place``-th of ``count`` prompts, a PNG; None where it is no grid."""
    columns = math.ceil(math.sqrt(count))
    rows, (row, column) = math.ceil(count / columns), divmod(place, columns)
    try:
        with Image.open(io.BytesIO(grid)) as sheet:
            # Each cell with some of the gap around it, so that the sheet may be of any size.
            across, down = sheet.width / columns, sheet.height / rows
            left, top = round(across * column), round(down * row)
            box = (left, top, round(across * (column + 1)), round(down * (row + 1)))
            out = io.BytesIO()
            sheet.crop(box).save(out, "PNG")
            return out.getvalue()
    except (OSError, ValueError):
        return None


def _warnings(folder: Path) -> tuple[str, ...]:
    warnings = _summary(folder).get("warnings")
    if not isinstance(warnings, list):
        return ()
    return tuple(f"from step {one['step']} on, {one['text']}" for one in warnings)
