"""The table of figures, and the two primary ones as charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.catalogue import METRICS, Metric
from nsync_pipeline.report.charts import Estimate, interval_chart
from nsync_pipeline.report.numbers import digits_for, shown
from nsync_pipeline.report.training_charts import Chart

Figures = Mapping[str, Interval]


@dataclass(frozen=True)
class Measured:
    """One set of pictures with its figures: a column of the table."""

    name: str
    figures: Figures
    colour: int | None = None  # the number of a variant
    trainings: tuple[Figures, ...] = ()  # of each, where ``figures`` are over several


@dataclass(frozen=True)
class Cell:
    """A figure in the table; empty texts where there is none."""

    value: str
    interval: str


@dataclass(frozen=True)
class TableRow:
    """A metric in the table."""

    metric: Metric
    cells: tuple[Cell, ...]  # a column each


def figures_table(columns: Sequence[Measured]) -> list[TableRow]:
    """A row a metric that any column has; all cells of a row have the same decimals."""
    rows = []
    for metric in METRICS:
        found = [column.figures.get(metric.name) for column in columns]
        if any(found):
            rows.append(TableRow(metric, tuple(_cells(metric, found))))
    return rows


def primary_charts(columns: Sequence[Measured], floor: Figures) -> list[Chart]:
    """The primary metrics with their intervals; the floor, where there is one, is shaded."""
    charts = []
    for metric in METRICS:
        rows = [
            Estimate(
                column.name,
                column.colour,
                figure.value,
                figure.low,
                figure.high,
                tuple(
                    of_one[metric.name].value
                    for of_one in column.trainings
                    if metric.name in of_one
                ),
            )
            for column in columns
            if (figure := column.figures.get(metric.name)) is not None
        ]
        if not (metric.primary and rows):
            continue
        chance = floor.get(metric.name)
        band = None
        if chance is not None and chance.low is not None and chance.high is not None:
            band = (chance.low, chance.high)
        meaning = f"{metric.meaning} {metric.better.capitalize()} is better."
        if band:
            meaning += " Shaded: what two random halves of the real pictures differ by."
        if any(row.each for row in rows):
            meaning += " Small dots: single trainings."
        label = f"{metric.title}: " + ", ".join(f"{row.name} {row.value:.3g}" for row in rows)
        charts.append(Chart(metric.title, meaning, interval_chart(label, rows, band)))
    return charts


def _cells(metric: Metric, found: Sequence[Interval | None]) -> list[Cell]:
    scale = 100.0 if metric.percent else 1.0
    unit = " %" if metric.percent else ""
    there = [figure for figure in found if figure is not None]
    digits = 0 if metric.percent else digits_for(figure.value for figure in there)
    cells = []
    for figure in found:
        if figure is None:
            cells.append(Cell("", ""))
            continue
        ends = [scale * end for end in (figure.low, figure.high) if end is not None]
        between = " to ".join(shown(end, digits) for end in ends)
        cells.append(Cell(shown(scale * figure.value, digits) + unit, between))
    return cells
