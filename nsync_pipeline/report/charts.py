"""Line and interval charts as inline SVG.

Colours come from the page's style sheet (class ``series-<n>``, ``currentColor``), so that a chart
fits light and dark pages; numbers are rounded, so that the same figures give the same bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nsync_pipeline.metrics.catalogue import METRICS
from nsync_pipeline.report.figures import Figures, Measured, shown

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26
SERIES_COLOURS = 6
SMOOTHING = 0.06
"""The share of the steps over which a line is averaged."""


@dataclass(frozen=True)
class Chart:
    """A chart with what it says."""

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


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, as a row of an interval chart.

    ``each`` are what it is the mean of, where that is several: small dots.
    """

    name: str
    colour: int | None  # None for what is no variant
    value: float
    low: float | None
    high: float | None
    each: tuple[float, ...] = ()


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
    x = _axis(min(0.0, *steps), max(steps), LEFT, WIDTH - RIGHT, 4, tight=True)
    shown_values = [*values, 0.0] if zero else values
    y = _axis(min(shown_values), max(shown_values), HEIGHT - BOTTOM, TOP, 4)
    parts = [_grid(x, y)]
    if zero:
        parts.append(f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_level(y, 0.0)}/>')
    for line in lines:
        css = series_class(line.colour)
        if line.noisy:
            parts.append(_path(line.points, x, y, f"{css} raw"))
            parts.append(_path(_smooth(line.points), x, y, css))
        else:
            parts.append(_path(line.points, x, y, css))
            parts += [
                f'<circle class="{css}" cx="{x.at(step)}" cy="{y.at(value)}" r="2.6"/>'
                for step, value in line.points
                if line.marked
            ]
    return svg(label, WIDTH, HEIGHT, parts)


def interval_chart(
    label: str, rows: Sequence[Estimate], band: tuple[float, float] | None = None
) -> str:
    """Figures with their intervals, one below the other; ``band`` is shaded behind them."""
    ends = [
        end for row in rows for end in (row.value, row.low, row.high, *row.each) if end is not None
    ]
    ends += [0.0, *(band or ())]
    width, left, step = 480, 118, 26
    bottom = TOP + step * len(rows)
    x = _axis(min(ends), max(ends), left, width - 16, 5)
    parts = []
    if band is not None:
        start, end = float(x.at(band[0])), float(x.at(band[1]))
        parts.append(
            f'<rect class="band" x="{start:.1f}" y="{TOP - 4}" width="{max(1.0, end - start):.1f}" '
            f'height="{step * len(rows) + 8}"/>'
        )
    parts += [
        f'<line class="{"zero" if abs(tick) < 1e-12 else "grid"}" x1="{x.at(tick)}" '
        f'x2="{x.at(tick)}" y1="{TOP - 4}" y2="{bottom + 4}"/>'
        f'<text x="{x.at(tick)}" y="{bottom + 19}" text-anchor="middle">'
        f"{shown(tick, x.digits)}</text>"
        for tick in x.ticks
    ]
    for index, row in enumerate(rows):
        middle = TOP + step * index + step / 2
        css = series_class(row.colour)
        parts.append(
            f'<text class="name" x="{left - 12}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{escape(row.name)}</text>"
        )
        if row.low is not None and row.high is not None:
            parts.append(
                f'<line class="{css} whisker" x1="{x.at(row.low)}" x2="{x.at(row.high)}" '
                f'y1="{middle:.1f}" y2="{middle:.1f}"/>'
            )
        parts.append(f'<circle class="{css}" cx="{x.at(row.value)}" cy="{middle:.1f}" r="4.4"/>')
        parts += [
            f'<circle class="{css} each" cx="{x.at(value)}" cy="{middle + 8:.1f}" r="2"/>'
            for value in row.each
        ]
    return svg(label, width, bottom + 26, parts)


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


def series_class(colour: int | None) -> str:
    """The class of a variant's colour; None for what is no variant."""
    return "plain" if colour is None else f"series-{colour % SERIES_COLOURS}"


def _axis(
    low: float, high: float, start: float, end: float, ticks: int, tight: bool = False
) -> _Axis:
    if high - low < 1e-12:
        spread = abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
    step = _round_step((high - low) / ticks)
    if not tight:
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return _Axis(low, high, start, end, step)


def _round_step(rough: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return float(next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999) * power)


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The centred running mean, over fewer points towards the ends."""
    half = max(1, round(len(points) * SMOOTHING / 2))
    values = [value for _, value in points]
    smooth = []
    for index, (step, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        window = values[index - reach : index + reach + 1]
        smooth.append((step, math.fsum(window) / len(window)))
    return smooth


def _grid(x: _Axis, y: _Axis) -> str:
    across = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_level(y, tick)}/>'
        f'<text x="{LEFT - 7}" y="{float(y.at(tick)) + 3.5:.1f}" text-anchor="end">'
        f"{shown(tick, y.digits)}</text>"
        for tick in y.ticks
    ]
    below = [
        f'<text x="{x.at(tick)}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{shown(tick, x.digits)}</text>"
        for tick in x.ticks
    ]
    return "".join(across + below)


def _level(y: _Axis, value: float) -> str:
    return f'y1="{y.at(value)}" y2="{y.at(value)}"'


def _path(points: Sequence[tuple[float, float]], x: _Axis, y: _Axis, css: str) -> str:
    moves = " ".join(
        f"{'L' if index else 'M'}{x.at(step)} {y.at(value)}"
        for index, (step, value) in enumerate(points)
    )
    return f'<path class="{css}" d="{moves}"/>'


def svg(label: str, width: float, height: float, parts: Sequence[str]) -> str:
    """A picture of ``parts`` that says ``label`` to who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
