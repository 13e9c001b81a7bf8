"""What can be watched of a training while it runs: files that hold whole lines at any moment."""

import logging
import resource
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from nsync_pipeline.files import write_whole
from nsync_pipeline.pace import Pace
from nsync_pipeline.stage import StageContext
from nsync_pipeline.training.config import TrainingConfig, TrainingSettings
from nsync_pipeline.training.history import COLUMNS, HISTORY_FILE, StepRecord, csv_line
from nsync_pipeline.training.watch import TrainingWarning, Watcher
from nsync_pipeline.training.watch_sampler import WatchSampler
from nsync_pipeline.training.watch_score import best_look, paired_difference

logger = logging.getLogger(__name__)

GIB = 2**30
LOOKS = "looks"
"""The folder of the looks' grids, ``<8 digits of the step>.jpg``, live and in the artefact."""

SYSTEM_FILE = "system.csv"
TABLES = {
    HISTORY_FILE: COLUMNS,
    "held_out.csv": ("step", "loss"),
    "looks.csv": ("step", "style_margin", "standard_error", "pictures"),
    SYSTEM_FILE: ("step", "steps_a_second", "peak_memory_gib"),
}
"""The columns of each live table; a row a step, held-out loss, scored look, and step taken now."""


class LiveFiles:
    """The tables and grids of one training in ``folder``.

    Rows are kept until ``flush``, which adds whole lines in one write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, list[str]] = {name: [] for name in TABLES}

    def begin(self, steps: int) -> None:
        """Bring the files to where the training goes on, after ``steps`` steps.

        The tables are what was added until now: the training knows all of it, but the machine's
        figures, of which those of later steps are dropped. So are grids, which are added again.
        """
        shutil.rmtree(self.folder / LOOKS, ignore_errors=True)
        system = self.folder / SYSTEM_FILE
        lines = system.read_text().splitlines(keepends=True)[1:] if system.is_file() else []
        self._rows[SYSTEM_FILE][:0] = [
            line for line in lines if int(line.partition(",")[0]) <= steps
        ]
        for name, columns in TABLES.items():
            write_whole(self.folder / name, "".join((csv_line(columns), *self._rows[name])))
            self._rows[name].clear()

    def add(self, table: str, row: Iterable[Any]) -> None:
        """A row of ``table``; None is an empty cell."""
        self._rows[table].append(csv_line(row))

    def add_grid(self, done: int, jpeg: bytes) -> None:
        """The grid of the look after ``done`` steps."""
        write_whole(self.folder / grid_name(done), jpeg)

    def flush(self) -> None:
        """Write the rows that were added."""
        for name, rows in self._rows.items():
            if rows:
                with (self.folder / name).open("ab", buffering=0) as file:
                    file.write("".join(rows).encode())
                rows.clear()


def grid_name(done: int) -> str:
    """Where the grid of the look after ``done`` steps lies, live and in the artefact."""
    return f"{LOOKS}/{done:08d}.jpg"


class TrainingWatch:
    """Writes what happens to the live files, tells the progress, and finds what to warn of.

    Args:
        context: of the stage.
        settings: of the training.
        device: that it is trained on.
        sampler: draws the looks; None where nothing is drawn.
    """

    def __init__(
        self,
        context: StageContext[TrainingSettings],
        settings: TrainingConfig,
        device: torch.device,
        sampler: WatchSampler | None,
    ) -> None:
        self._sampler = sampler
        self._context = context
        self._settings = settings
        self._device = device
        self._pace = Pace()
        self._watcher = Watcher(settings, _say)
        self._live = LiveFiles(context.live)
        self._steps = 0
        self._begun = False

    def on_step(self, record: StepRecord) -> None:
        """A step was taken, now or before an interruption."""
        self._steps = record.step
        self._live.add(HISTORY_FILE, astuple(record))
        self._pace.tell(record.step, time.monotonic())
        speed = self._pace.speed
        if speed is not None:  # of steps taken now
            memory = peak_memory(self._device) / GIB
            self._live.add(SYSTEM_FILE, (record.step, speed, memory))
        self._context.progress("training", record.step, self._settings.steps)
        self._watcher.on_step(record)

    def on_held_out(self, done: int, loss: float) -> None:
        """The held-out loss was taken after ``done`` steps."""
        self._live.add("held_out.csv", (done, loss))
        self._watcher.on_held_out(done, loss)

    def look(self, done: int) -> float | None:
        """Draw and show the look after ``done`` steps; gives its style margin, as the sampler."""
        assert self._sampler is not None
        self._begin()
        margin = self._sampler(done)
        if done in self._sampler.steps():
            self._add_look(done)
        self.show()
        return margin

    def show(self) -> None:
        """Bring the live files up to date, and say so."""
        self._begin()
        self._live.flush()
        self._context.checkpointed()

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        self._live.begin(self._steps)
        if self._steps > 0 and self._sampler is not None:
            for done in self._sampler.steps():
                if done <= self._steps:
                    self._add_look(done)

    def _add_look(self, done: int) -> None:
        assert self._sampler is not None
        self._live.add_grid(done, self._sampler.grid(done))
        score = self._sampler.score(done)
        if score is not None:
            row = (done, score.style_margin, score.standard_error, len(score.margins))
            self._live.add("looks.csv", row)

    def summary(self) -> dict[str, Any]:
        """For ``training.json``: warnings and the scores of the looks."""
        warnings = [
            {"kind": warning.kind, "step": warning.step, "text": warning.text}
            for warning in self._watcher.found
        ]
        scores = {} if self._sampler is None else {s.step: s for s in self._sampler.scores()}
        looks = {
            str(step): {
                "style_margin": score.style_margin,
                "standard_error": score.standard_error,
                "pictures": len(score.margins),
            }
            for step, score in scores.items()
        }
        best = None
        if scores:
            highest = best_look(scores)
            lead = paired_difference(highest, scores[max(scores)])
            best = {
                "step": highest.step,
                "lead_over_last": lead.mean,
                "standard_error": lead.standard_error,
                "told_apart": lead.told_apart,
            }
        return {"warnings": warnings, "looks": looks, "best_look": best}

    def figures(self) -> dict[str, int | float | str]:
        """For the run's result: which warnings there were."""
        kinds = [warning.kind for warning in self._watcher.found]
        return {"warnings": ", ".join(kinds)} if kinds else {}


def peak_memory(device: torch.device) -> int:
    """Bytes that this process had at most on ``device``; of any other than CUDA, in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # KiB on Linux


def _say(warning: TrainingWarning) -> None:
    logger.warning("step %d: %s", warning.step, warning.text)
