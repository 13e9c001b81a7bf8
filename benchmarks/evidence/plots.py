"""The plots and picture grids of the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.evidence.choice import Point
from benchmarks.evidence.comparison import CONTENT, LEAK, STYLE, Trials, measure
from benchmarks.evidence.matrix import ORDINARY, SETS
from benchmarks.evidence.results import sample_file
from nsync_pipeline.pictures.sheets import GridRow, labelled_grid

INK, GRID = "#33312e", "#dedbd4"
COLOURS = {STYLE: "#3566a8", CONTENT: "#3f8f5f", LEAK: "#c0502e"}
NAMES = {STYLE: "style recognised", CONTENT: "content kept", LEAK: "leak"}
WIDTH = 2400
"""Pixels of a row of pictures, at most."""
LINES = ("#3566a8", "#c0502e", "#3f8f5f", "#8a5aa8", "#b58a1d", "#5b6770", "#c04a86", "#2c8a94")


def rates_plot(trials: Trials, of: str, file: Path) -> None:
    """A row a method: its rates with their intervals, and the means of the styles as small dots."""
    methods = trials.methods(of)
    confounded = SETS[of].confound is not None
    colours = {name: colour for name, colour in COLOURS.items() if confounded or name != LEAK}
    figure = Figure(figsize=(8.4, 0.5 * len(methods) + 1.1), layout="constrained")
    panel = figure.subplots()
    for number, (name, colour) in enumerate(colours.items()):
        for row, method in enumerate(methods):
            place = row + 0.22 * (number - 1)
            seeds = trials.seeds(of, method)
            found = measure(trials, of, method, name, seeds)
            if found is None:
                continue
            each = [measure(trials, of, method, name, {s: chosen}) for s, chosen in seeds.items()]
            means = [one.value for one in each if one is not None]
            panel.plot(means, [place] * len(means), "o", color=colour, markersize=3, alpha=0.4)
            shown = found.interval
            if shown.low is not None and shown.high is not None:
                panel.plot([shown.low, shown.high], [place] * 2, color=colour, linewidth=1.6)
            label = NAMES[name] if row == 0 else None
            panel.plot(shown.value, place, "o", color=colour, markersize=5.5, label=label)
    panel.set_yticks(range(len(methods)), methods)
    panel.set_ylim(len(methods) - 0.5, -0.5)
    panel.set_xlim(-0.02, 1.02)
    plain(panel, "x")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def curves_plot(curves: Mapping[str, Sequence[Point]], file: Path) -> None:
    """Style against content, a line a method over its drawings; a ring where it is as trained."""
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    panel = figure.subplots()
    for number, (method, points) in enumerate(curves.items()):
        colour = LINES[number % len(LINES)]
        marker = "os^Dv"[number // len(LINES) % 5]
        line = sorted(points, key=lambda one: one.style)
        shares = [one.content for one in line], [one.style for one in line]
        panel.plot(*shares, "-", color=colour, linewidth=1.2, alpha=0.6)
        panel.plot(*shares, marker, color=colour, markersize=5, label=method)
        for one in line:
            if one.drawing == ORDINARY:
                panel.plot(
                    one.content, one.style, "o", color=colour, markersize=11, fillstyle="none"
                )
    panel.set_xlim(0, 1.02)
    panel.set_ylim(-0.02, 1.02)
    panel.set_xlabel("content kept", fontsize=9)
    panel.set_ylabel("style recognised", fontsize=9)
    plain(panel, "y")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def pictures_grid(
    title: str,
    columns: Mapping[str, str],
    styles: Sequence[str],
    of: str,
    results: Path,
    file: Path,
) -> bool:
    """A row a style, a column a name of samples, with its heading; False where some are missing."""
    rows = []
    for style in styles:
        files = [sample_file(results, style, of, name) for name in columns]
        if not all(file.is_file() for file in files):
            return False
        side = min(WIDTH // len(columns), 256)
        rows.append(GridRow(style.replace("_", " "), [_opened(file, side) for file in files]))
    labelled_grid(title, list(columns.values()), rows).save(file, "JPEG", quality=88)
    return True


def _opened(file: Path, side: int) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def plain(panel: Axes, axis: Literal["x", "y"]) -> None:
    panel.tick_params(labelsize=9, colors=INK)
    panel.grid(axis=axis, color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
