"""The plots that ``dvc plots show`` shows, as pictures: a colour a variant, no network needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsync_pipeline.report.charts import Line
from nsync_pipeline.report.figures import Measured
from nsync_pipeline.report.trainings import Training
from nsync_pipeline.workspace import BASE

COLOURS = ("#3b6ea5", "#b5532c", "#4b8a5f", "#8a5aa0", "#a58420", "#4f8f9c")  # as page.css
GREY = "#8b8b86"
CURVES = {"loss_positive": "loss on style pictures", "norm_refined": "length of the gradient"}
"""Columns of ``history.csv``, and what they are called."""


def write_plots(
    folder: Path,
    measured: Sequence[Measured],
    trainings: Sequence[Training],
    pictures: Sequence[Mapping[str, Any]],
) -> None:
    """``trainings`` are of the variants in their order; ``pictures`` rows of the evaluation."""
    folder.mkdir()
    for column, label in CURVES.items():
        with_axes = _Plot("optimizer step", label)
        for number, training in enumerate(trainings):
            points = tuple((row["step"], row[column]) for row in training.history)
            line = Line(training.variant, number, points)  # type: ignore[arg-type]
            colour = COLOURS[number % len(COLOURS)]
            with_axes.axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.6, alpha=0.4)
            smooth = zip(*line.smoothed, strict=True)
            with_axes.axes.plot(*smooth, color=colour, label=training.variant)
        with_axes.save(folder / f"{column}.png")
    _margins(measured).save(folder / "style_margin.png")
    _scatter(measured, pictures).save(folder / "style_and_content.png")


class _Plot:
    """A figure with one pair of axes."""

    def __init__(self, x: str, y: str) -> None:
        self._figure = Figure(figsize=(6.4, 4.2), dpi=100, layout="constrained")
        self.axes: Axes = self._figure.subplots()
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)
        self.axes.spines[["top", "right"]].set_visible(False)

    def save(self, path: Path) -> None:
        if len(self.axes.get_legend_handles_labels()[0]) > 1:
            self.axes.legend(fontsize="small", frameon=False)
        self._figure.savefig(path, metadata={"Software": None})  # the same of the same figures


def _colour(one: Measured) -> str:
    return GREY if one.colour is None else COLOURS[one.colour % len(COLOURS)]


def _margins(measured: Sequence[Measured]) -> _Plot:
    plot = _Plot("style margin, with its 95 % interval", "")
    for row, one in enumerate(measured):
        figure = one.figures["style_margin"]
        if figure.low is not None and figure.high is not None:
            plot.axes.plot([figure.low, figure.high], [row, row], color=_colour(one), linewidth=2)
        plot.axes.plot(figure.value, row, "o", color=_colour(one))
    plot.axes.set_yticks(range(len(measured)), [one.name for one in measured])
    plot.axes.invert_yaxis()
    plot.axes.axvline(0, color=GREY, linewidth=0.6)
    return plot


def _scatter(measured: Sequence[Measured], pictures: Sequence[Mapping[str, Any]]) -> _Plot:
    """A dot a picture, and a large one for the mean of each variant."""
    plot = _Plot("prompt fidelity (CLIP-T)", "style margin")
    for one in measured:
        of_one = [row for row in pictures if row["variant"] == one.name]
        if not of_one:
            continue
        x, y = ([row[name] for row in of_one] for name in ("prompt_fidelity", "style_margin"))
        plot.axes.plot(x, y, "o", color=_colour(one), markersize=3, alpha=0.4)
        label = f"{BASE}, untrained" if one.name == BASE else one.name
        means = sum(x) / len(x), sum(y) / len(y)
        plot.axes.plot(*means, "o", color=_colour(one), markersize=9, label=label)
    return plot
