"""What can be watched of a training while it runs: files that hold whole lines at any moment."""

import resource
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, astuple
from typing import Any

import psutil
import torch

from nsync_pipeline.files import write_whole
from nsync_pipeline.pace import Pace
from nsync_pipeline.stage import StageContext
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.training.history import COLUMNS, HISTORY_FILE, StepRecord, csv_line
from nsync_pipeline.training.looks import Looks, LookScore, best_look
from nsync_pipeline.training.watch import Watcher

GIB = 2**30
LOOKS = "looks"
"""The folder of the looks' grids, ``<8 digits of the step>.jpg``, live and in the artefact."""

SYSTEM_FILE = "system.csv"
LOOK_PROMPTS = f"{LOOKS}/prompts.json"
"""What each picture of a grid was asked for, beside them."""
TABLES = {
    HISTORY_FILE: COLUMNS,
    "held_out.csv": ("step", "loss"),
    "looks.csv": ("step", "style_margin", "standard_error", "pictures"),
    SYSTEM_FILE: (
        "step",
        "steps_a_second",
        "peak_memory_gib",
        "cpu_utilization_percentage",
        "system_memory_usage_percentage",
    ),
}
"""The columns of each live table; a row a step, held-out loss, scored look, and step taken now."""


def grid_name(done: int) -> str:
    """Where the grid of the look after ``done`` steps lies, live and in the artefact."""
    return f"{LOOKS}/{done:08d}.jpg"


class TrainingWatch:
    """Writes what happens to the live files, tells the progress, and finds what to warn of.

    Rows are kept until ``show``, which adds whole lines in one write.
    """

    def __init__(
        self, context: StageContext[TrainingSettings], device: torch.device, looks: Looks | None
    ) -> None:
        self._context, self._device, self._looks = context, device, looks
        self._pace = Pace()
        self._watcher = Watcher(context.settings.training)
        self._rows: dict[str, list[str]] = {name: [] for name in TABLES}
        self._steps = 0
        self._begun = False

    def on_step(self, record: StepRecord) -> None:
        self._steps = record.step
        self._add(HISTORY_FILE, astuple(record))
        self._pace.tell(record.step, time.monotonic())
        speed = self._pace.speed
        if speed is not None:  # of steps taken now
            machine = psutil.cpu_percent(), psutil.virtual_memory().percent  # since the last step
            memory = peak_memory(self._device) / GIB
            self._add(SYSTEM_FILE, (record.step, speed, memory, *machine))
        self._context.progress("training", record.step, self._context.settings.training.steps)
        self._watcher.on_step(record)

    def on_held_out(self, done: int, loss: float) -> None:
        self._add("held_out.csv", (done, loss))
        self._watcher.on_held_out(done, loss)

    def look(self, done: int) -> float | None:
        """Draw and show the look after ``done`` steps; gives its style margin, as ``Looks``."""
        assert self._looks is not None
        self._begin()
        margin = self._looks(done)
        if done in self._looks.steps():
            self._add_look(self._looks, done)
        self.show()
        return margin

    def show(self) -> None:
        """Bring the live files up to date, and say so."""
        self._begin()
        for name, rows in self._rows.items():
            if rows:
                with (self._context.live / name).open("ab", buffering=0) as file:
                    file.write("".join(rows).encode())
                rows.clear()
        self._context.checkpointed()

    def _add(self, table: str, row: Iterable[Any]) -> None:
        self._rows[table].append(csv_line(row))

    def _begin(self) -> None:
        """At first, bring the files to where the training goes on.

        The training knows all rows of the tables but the machine's figures, of which those of later
        steps are dropped. So are grids, which are added again.
        """
        if self._begun:
            return
        self._begun = True
        folder = self._context.live
        shutil.rmtree(folder / LOOKS, ignore_errors=True)
        system = folder / SYSTEM_FILE
        lines = system.read_text().splitlines(keepends=True)[1:] if system.is_file() else []
        kept = [line for line in lines if int(line.partition(",")[0]) <= self._steps]
        self._rows[SYSTEM_FILE][:0] = kept
        for name, columns in TABLES.items():
            write_whole(folder / name, "".join((csv_line(columns), *self._rows[name])))
            self._rows[name].clear()
        if self._looks is not None:
            write_whole(folder / LOOK_PROMPTS, self._looks.prompts())
        if self._steps > 0 and self._looks is not None:
            for done in self._looks.steps():
                if done <= self._steps:
                    self._add_look(self._looks, done)

    def _add_look(self, looks: Looks, done: int) -> None:
        write_whole(self._context.live / grid_name(done), looks.grid(done))
        score = looks.score(done)
        if score is not None:
            self._add("looks.csv", (done, *_figures(score).values()))

    def summary(self) -> dict[str, Any]:
        """For ``training.json``: warnings and the scores of the looks."""
        scores = {} if self._looks is None else self._looks.scores()
        best = None
        if scores:
            highest = best_look(scores)
            lead = highest.lead_over(scores[max(scores)])
            best = {
                "step": highest.step,
                "lead_over_last": lead.style_margin,
                "standard_error": lead.standard_error,
                "told_apart": lead.told_apart,
            }
        return {
            "warnings": [asdict(warning) for warning in self._watcher.found],
            "looks": {str(step): _figures(score) for step, score in scores.items()},
            "best_look": best,
        }

    def figures(self) -> dict[str, int | float | str]:
        """For the run's result: which warnings there were."""
        kinds = [warning.kind for warning in self._watcher.found]
        return {"warnings": ", ".join(kinds)} if kinds else {}


def _figures(score: LookScore) -> dict[str, Any]:
    return {
        "style_margin": score.style_margin,
        "standard_error": score.standard_error,
        "pictures": len(score.margins),
    }


def peak_memory(device: torch.device) -> int:
    """Bytes that this process had at most on ``device``; of any other than CUDA, in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # KiB on Linux
