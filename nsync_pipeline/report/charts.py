"""Line and interval charts as inline SVG, drawn by ``charts.html``.

Colours come from the page's style sheet (class ``series-<n>``, ``currentColor``), so that a chart
fits light and dark pages; numbers are rounded, so that the same figures give the same bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nsync_pipeline.metrics.catalogue import METRICS
from nsync_pipeline.report.figures import Figures, Measured
from nsync_pipeline.report.page import draw

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26
SMOOTHING = 0.06  # the share of the steps over which a line is averaged


@dataclass(frozen=True)
class Chart:
    title: str
    meaning: str
    svg: str


@dataclass(frozen=True)
class Line:
    """One curve; ``colour`` is the number of its variant."""

    name: str
    colour: int
    points: tuple[tuple[float, float], ...]  # (step, value), by step
    noisy: bool = True  # drawn thin, with its running mean over it
    marked: bool = True  # a dot at each point, where it is not noisy

    @property
    def smoothed(self) -> list[tuple[float, float]]:
        """The centred running mean, over fewer points towards the ends."""
        half = max(1, round(len(self.points) * SMOOTHING / 2))
        values = [value for _, value in self.points]
        smooth = []
        for index, (step, _) in enumerate(self.points):
            reach = min(half, index, len(values) - 1 - index)
            window = values[index - reach : index + reach + 1]
            smooth.append((step, math.fsum(window) / len(window)))
        return smooth


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, as a row of an interval chart."""

    name: str
    colour: int | None  # None for what is no variant
    value: float
    low: float | None
    high: float | None
    each: tuple[float, ...] = ()  # what it is the mean of, where that is several: small dots


@dataclass(frozen=True)
class CurvePoint:
    x: float
    y: float
    name: str
    short: str = ""  # written beside it
    ringed: bool = False


@dataclass(frozen=True)
class Curve:
    """Points of one colour; ``lines`` join those that belong together."""

    colour: int | None
    points: tuple[CurvePoint, ...]
    lines: tuple[tuple[tuple[float, float], ...], ...] = ()


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels, with ticks at round values."""

    low: float
    high: float
    start: float
    end: float
    step: float

    def at(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}"

    @property
    def ticks(self) -> list[float]:
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [index * self.step for index in range(first, last + 1)]

    @property
    def digits(self) -> int:
        return max(0, -math.floor(math.log10(self.step) + 1e-9))


def line_chart(label: str, lines: Sequence[Line], zero: bool = False) -> str:
    """Curves over the optimizer steps; ``zero`` keeps 0 in view and marks it.

    Raises:
        ValueError: there is nothing to draw.
    """
    values = [value for line in lines for _, value in line.points]
    if not values:
        raise ValueError("a chart needs at least one point")
    steps = [step for line in lines for step, _ in line.points]
    right = WIDTH - RIGHT
    x = _axis(min(0.0, *steps), max(steps), LEFT, right, 4, tight=True)
    values += [0.0] if zero else []
    y = _axis(min(values), max(values), HEIGHT - BOTTOM, TOP, 4)
    return draw(
        "line_chart", label=label, lines=lines, zero=zero, x=x, y=y,
        width=WIDTH, height=HEIGHT, left=LEFT, right=right,
    )  # fmt: skip


def interval_chart(
    label: str, rows: Sequence[Estimate], band: tuple[float, float] | None = None
) -> str:
    """Figures with their intervals, one below the other; ``band`` is shaded behind them."""
    ends = [
        end for row in rows for end in (row.value, row.low, row.high, *row.each) if end is not None
    ]
    ends += [0.0, *(band or ())]
    width, left = 480, 118
    x = _axis(min(ends), max(ends), left, width - 16, 5)
    return draw(
        "interval_chart", label=label, rows=rows, band=band, x=x,
        width=width, left=left, top=TOP, step=26,
    )  # fmt: skip


@dataclass(frozen=True)
class Side:
    """What an axis of a plane shows."""

    title: str
    most: float | None = None  # that there can be: the axis ends there


def curve_chart(label: str, curves: Sequence[Curve], across: Side, up: Side) -> str:
    """Points in the plane of two metrics, and the lines that join them."""
    points = [point for curve in curves for point in curve.points]
    width, height, left = 480, 320, 52
    right = width - 40  # what is written beside a point goes on beyond it
    x = _axis(*_ends([point.x for point in points], across.most), left, right, 5)
    y = _axis(*_ends([point.y for point in points], up.most), height - 42, 36, 5)
    return draw(
        "curve_chart", label=label, curves=curves, x=x, y=y,
        x_title=across.title, y_title=up.title, width=width, height=height, left=left, right=right,
    )  # fmt: skip


def _ends(values: Sequence[float], most: float | None) -> tuple[float, float]:
    return (min(values), max(values)) if most is None else (min(*values, 0.9 * most), most)


def primary_charts(columns: Sequence[Measured], floor: Figures) -> list[Chart]:
    """The primary metrics with their intervals; the floor, where there is one, is shaded."""
    charts = []
    for metric in METRICS:
        rows = []
        for column in columns:
            if (figure := column.figures.get(metric.name)) is not None:
                each = (of_one.get(metric.name) for of_one in column.trainings)
                dots = tuple(one.value for one in each if one is not None)
                rows.append(
                    Estimate(
                        column.name, column.colour, figure.value, figure.low, figure.high, dots
                    )
                )
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


def _axis(
    low: float, high: float, start: float, end: float, ticks: int, tight: bool = False
) -> _Axis:
    """From ``low`` to ``high``, or, where not ``tight``, to the next ticks; about so many ticks."""
    if high - low < 1e-12:
        spread = abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
    rough = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = float(next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999) * power)
    if not tight:
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return _Axis(low, high, start, end, step)
