"""The figures as numbers on a page, and their table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.catalogue import METRICS, Metric

MINUS = "\N{MINUS SIGN}"


def digits_for(values: Iterable[float]) -> int:
    """Decimals that show three significant digits of the largest of ``values``: 0 .. 6."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0.0:
        return 2
    return min(6, max(0, 2 - math.floor(math.log10(largest))))


def shown(value: float, digits: int, signed: bool = False) -> str:
    """``value`` at so many decimals; ``signed`` writes the plus, too. Zero has no sign."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0.0:
        return text.lstrip("+-")
    return text.replace("-", MINUS)


def percent(value: float) -> str:
    """A share in per cent, whole."""
    return shown(100.0 * value, 0) + " %"


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
    metric: Metric
    cells: tuple[Cell, ...]  # a column each


def figures_table(columns: Sequence[Measured]) -> list[TableRow]:
    """A row a metric that any column has; all cells of a row have the same decimals."""
    rows = []
    for metric in METRICS:
        figures = [column.figures.get(metric.name) for column in columns]
        there = [figure.value for figure in figures if figure is not None]
        if there:
            digits = 0 if metric.percent else digits_for(there)
            cells = tuple(_cell(figure, metric.percent, digits) for figure in figures)
            rows.append(TableRow(metric, cells))
    return rows


def _cell(figure: Interval | None, in_percent: bool, digits: int) -> Cell:
    if figure is None:
        return Cell("", "")
    scale, unit = (100.0, " %") if in_percent else (1.0, "")
    ends = [scale * end for end in (figure.low, figure.high) if end is not None]
    between = " to ".join(shown(end, digits) for end in ends)
    return Cell(shown(scale * figure.value, digits) + unit, between)
