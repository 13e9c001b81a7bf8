"""What each method is trained and drawn at: chosen on seeds and prompts that are not reported on.

A training is compared with others as a whole, by the area under its curve of style against content
over all its drawings (``nsync_pipeline.metrics.curves``).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.evidence.matrix import ORDINARY, TABLES, Table, Tuning
from benchmarks.evidence.results import Result, read_result
from nsync_pipeline.files import write_whole
from nsync_pipeline.metrics.curves import area_under

CHOSEN_FILE = "chosen.json"
CONTENT, LEAK = 0.9, 0.05
"""What the aim asks for: at least so much content, at most so much leak."""
PENALTY = 2.0
"""How much style a unit of content that lacks, or of leak that is too much, is worth."""


@dataclass(frozen=True)
class Point:
    """Means of one drawing of a method at one tuning, over its styles, sets and seeds."""

    drawing: str
    style: float
    content: float
    leak: float
    trials: int

    @property
    def score(self) -> float:
        """The style, less what content and leak lack of the aim."""
        lacking = max(0.0, CONTENT - self.content) + max(0.0, self.leak - LEAK)
        return self.style - PENALTY * lacking


def point(drawing: str, results: Sequence[Result]) -> Point:
    def mean(name: str) -> float:
        found = [fmean(r.pictures[name]) for r in results if name in r.pictures]
        return fmean(found) if found else 0.0

    style, content, leak = map(mean, ("style_recognised", "content_recognised", "leak"))
    return Point(drawing, style, content, leak, trials=len(results))


def area(points: Iterable[Point]) -> float:
    """Under the curve of style against content, between 0 and 1."""
    shares = np.array([(one.style, one.content) for one in points]).reshape(-1, 2)
    return float(area_under(shares[:, 0], shares[:, 1]))


def curves(results: Path, table: Table) -> dict[str, dict[Tuning, list[Point]]]:
    """The points of every method of ``table`` at each of its tunings, as far as there are results.

    A drawing counts where it has as many trials as the ordinary one of the same training.
    """
    found: dict[str, dict[Tuning, dict[str, list[Result]]]] = {}
    for trial in table.trials():
        result = read_result(results, trial, table.scale)
        if result is not None:
            of_tuning = found.setdefault(trial.method, {}).setdefault(trial.tuning, {})
            of_tuning.setdefault(trial.drawing, []).append(result)
    return {method: _whole(tunings) for method, tunings in found.items()}


def _whole(tunings: Mapping[Tuning, Mapping[str, list[Result]]]) -> dict[Tuning, list[Point]]:
    return {
        tuning: [
            point(drawing, results)
            for drawing, results in drawings.items()
            if len(results) == len(drawings[ORDINARY])
        ]
        for tuning, drawings in tunings.items()
        if ORDINARY in drawings
    }


def choose(of_method: Mapping[Tuning, Sequence[Point]]) -> tuple[Tuning, Point]:
    """The tuning with the largest area among those tried most, and its best drawing."""
    tried = {tuning: max(point.trials for point in points) for tuning, points in of_method.items()}
    most = [tuning for tuning, trials in tried.items() if trials == max(tried.values())]
    tuning = max(most, key=lambda tuning: area(of_method[tuning]))
    return tuning, max(of_method[tuning], key=lambda one: one.score)


def _halved(table: Table, results: Path) -> Table:
    """``table`` with its first seed whole, and at the others the better tuning of it alone.

    Successive halving: every method has as many trainings. One whose first seed is not whole has
    none at the others yet.
    """
    first, *others = table.seeds
    start = replace(table, seeds=(first,))
    undone = {
        trial.method for trial in start.trials() if read_result(results, trial, table.scale) is None
    }
    better = {
        method: choose(found)[0]
        for method, found in curves(results, start).items()
        if method not in undone
    }
    halved = {
        (method, seed): (better[method],) if method in better else ()
        for method in table.methods
        for seed in others
    }
    return replace(table, halved=halved)


def write_choice(results: Path, table: Table) -> list[str]:
    """Keep what is chosen of the search in ``results``; a line a method."""
    lines, kept = [], {}
    for method, of_method in curves(results, table).items():
        tuning, best = choose(of_method)
        kept[method] = {**asdict(tuning), "drawing": best.drawing, "trainings": best.trials}
        areas = ", ".join(f"{t.name} {area(points):.2f}" for t, points in of_method.items())
        lines.append(
            f"{method}: {tuning.name}, {best.drawing}: style {best.style:.2f}, content "
            f"{best.content:.2f}, leak {best.leak:.2f} ({best.trials} trials); areas {areas}"
        )
    write_whole(results / CHOSEN_FILE, json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return lines


def table_of(name: str, results: Path) -> Table:
    """The table of this name: of the search, halved; of what was chosen, as the choice says.

    Raises:
        FileNotFoundError: nothing was chosen yet.
    """
    table = TABLES[name]
    if name == "search":
        return _halved(table, results)
    if name != "chosen":
        return table
    kept = json.loads((results / CHOSEN_FILE).read_text(encoding="utf-8"))
    chosen = {
        method: (
            Tuning(one["rate"], one["steps"]),
            tuple(dict.fromkeys((ORDINARY, one["drawing"]))),  # with and without the contrast
        )
        for method, one in kept.items()
    }
    return Table(
        table.name, table.scale, table.styles, table.sets, tuple(chosen), table.seeds, chosen=chosen
    )
