"""The plots and picture grids of the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.evidence.comparison import CONTENT, LEAK, STYLE, Trials, measure
from benchmarks.evidence.matrix import SETS
from benchmarks.evidence.results import sample_file
from benchmarks.evidence.trial import REAL, TAUGHT_BY
from nsync_pipeline.artifacts import BASE
from nsync_pipeline.image_sets.labelled_grid import GridRow, labelled_grid

INK, GRID = "#33312e", "#dedbd4"
COLOURS = {STYLE: "#3566a8", CONTENT: "#3f8f5f", LEAK: "#c0502e"}
NAMES = {STYLE: "style recognised", CONTENT: "content kept", LEAK: "leak"}
LINES = ("#3566a8", "#c0502e", "#3f8f5f", "#8a5aa8", "#b58a1d", "#5b6770", "#c04a86", "#2c8a94")


def rates_plot(trials: Trials, sets: Sequence[str], file: Path) -> None:
    """A panel a set, a row a method: the three rates with their intervals."""
    most = max(len(trials.methods(of)) for of in sets)
    figure = Figure(figsize=(5.2 * len(sets), 0.42 * most + 1.3), layout="constrained")
    for panel, of in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        methods = trials.methods(of)
        for name, colour in COLOURS.items():
            offset = {STYLE: -0.18, CONTENT: 0.0, LEAK: 0.18}[name]
            for row, method in enumerate(methods):
                found = measure(trials, of, method, name, trials.seeds(of, method))
                if found is None:
                    continue
                shown = found.interval
                panel.plot([shown.low, shown.high], [row + offset] * 2, color=colour, linewidth=1.6)
                panel.plot(shown.value, row + offset, "o", color=colour, markersize=4.5)
        panel.set_yticks(range(len(methods)), methods)
        panel.invert_yaxis()
        panel.set_xlim(-0.03, 1.03)
        panel.set_title(f"{of}: {SETS[of].words}", fontsize=10, color=INK)
        _plain(panel, "x")
    handles = [
        figure.axes[0].plot([], [], "o-", color=colour, label=NAMES[name])[0]
        for name, colour in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def few_plot(trials: Trials, file: Path) -> bool:
    """Style recognised by the number of pictures, a line a method; False where there are none."""
    sets = [of for of in trials.sets() if of.startswith("few_") or of == "plain"]
    sets.sort(key=lambda of: SETS[of].pictures)
    if len(sets) < 3:
        return False
    methods = [m for m in trials.methods(sets[0]) if all(m in trials.methods(of) for of in sets)]
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    for panel, name in zip(figure.subplots(1, 2, sharey=True), (STYLE, CONTENT), strict=True):
        for number, method in enumerate(methods):
            found = [measure(trials, of, method, name, trials.seeds(of, method)) for of in sets]
            values = [one.value for one in found if one is not None]
            counts = [SETS[of].pictures for of in sets]
            colour = LINES[number % len(LINES)]
            panel.plot(counts, values, "o-", color=colour, label=method, markersize=4)
        panel.set_xscale("log", base=2)
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.set_xlabel("pictures that teach the style", fontsize=9)
        panel.set_ylim(-0.03, 1.03)
        panel.set_title(NAMES[name], fontsize=10, color=INK)
        _plain(panel, "y")
    figure.axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return True


def pictures_grid(trials: Trials, of: str, results: Path, file: Path) -> bool:
    """A row a style: what taught it, what was asked for, and what each method drew of that."""
    columns = {TAUGHT_BY: "training", REAL: "asked for, real", BASE: "base"}
    columns |= {method: method for method in trials.methods(of)}
    rows = []
    for style in trials.styles(of):
        files = [sample_file(results, style, of, name) for name in columns]
        if not all(file.is_file() for file in files):
            return False
        rows.append(GridRow(style.replace("_", " "), [_opened(file) for file in files]))
    title = f"{of}: {SETS[of].words}"
    labelled_grid(title, list(columns.values()), rows).save(file, "JPEG", quality=88)
    return True


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def _plain(panel: Axes, axis: Literal["x", "y"]) -> None:
    panel.tick_params(labelsize=9, colors=INK)
    panel.grid(axis=axis, color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
