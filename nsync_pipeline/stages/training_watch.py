"""What is told of a training on the way, and what is left of that afterwards."""

import logging
import resource
import sys
import time
from typing import Any

import torch
from PIL import Image

from nsync_pipeline.stages.context import StageContext
from nsync_pipeline.stages.pace import Pace
from nsync_pipeline.stages.training_looks import Looks
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.watch_score import best_look, paired_difference
from nsync_pipeline.training.watch_warnings import TrainingWarning, Watcher

logger = logging.getLogger(__name__)

GIB = 2**30


class TrainingWatch:
    """Tells the run's log and the progress of each step, and finds what to warn of.

    Args:
        context: of the stage.
        settings: of the training.
        looks: None where nothing is drawn.
    """

    def __init__(
        self, context: StageContext, settings: TrainingConfig, looks: Looks | None
    ) -> None:
        self.look = looks
        self._context = context
        self._settings = settings
        self._pace = Pace()
        self._watcher = Watcher(settings, _say)

    def on_step(self, record: StepRecord) -> None:
        """A step was taken, now or before an interruption."""
        figures = record.figures() | {"clip_scale": self._clip_scale(record)}
        self._pace.tell(record.step, time.monotonic())
        speed = self._pace.speed
        if speed is not None:  # the machine's figures: of steps taken now
            figures |= {
                "system/steps_a_second": speed,
                "system/peak_memory_gib": peak_memory() / GIB,
            }
        self._context.log.metrics(figures, record.step)
        self._context.progress("training", record.step, self._settings.steps)
        self._watcher.on_step(record)

    def on_held_out(self, done: int, loss: float) -> None:
        """The held-out loss was taken after ``done`` steps."""
        self._context.log.metrics({"loss_held_out": loss}, done)
        self._watcher.on_held_out(done, loss)

    def summary(self) -> dict[str, Any]:
        """For ``training.json``: warnings and the scores of the looks."""
        warnings = [
            {"kind": found.kind, "step": found.step, "text": found.text}
            for found in self._watcher.found
        ]
        scores = {} if self.look is None else {one.step: one for one in self.look.scores()}
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
            found = best_look(scores)
            lead = paired_difference(found, scores[max(scores)])
            best = {
                "step": found.step,
                "lead_over_last": lead.mean,
                "standard_error": lead.standard_error,
                "told_apart": lead.told_apart,
            }
        return {"warnings": warnings, "looks": looks, "best_look": best}

    def figures(self) -> dict[str, int | float | str]:
        """For the run's result: which warnings there were."""
        kinds = [warning.kind for warning in self._watcher.found]
        return {"warnings": ", ".join(kinds)} if kinds else {}

    def strip(self) -> Image.Image | None:
        """The film-strip; None without looks."""
        return None if self.look is None else self.look.strip()

    def remove(self) -> None:
        """Remove what the looks kept on the way: the training is done."""
        if self.look is not None:
            self.look.remove()

    def _clip_scale(self, record: StepRecord) -> float:
        """What the refined gradient was multiplied by."""
        largest = self._settings.max_gradient_norm
        if largest is None or record.norm_refined <= largest:
            return 1.0
        return largest / record.norm_refined


def peak_memory() -> int:
    """Bytes that this process had at most: of the accelerator where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # KiB on Linux


def _say(warning: TrainingWarning) -> None:
    logger.warning("step %d: %s", warning.step, warning.text)
