"""Progress on the screen and losses in MLflow; a failing MLflow never stops training."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

EXPERIMENT = "sketchbook pretraining"
LOG_EVERY = 20  # steps between logged losses
_logger = logging.getLogger(__name__)


class TrainingLog:
    """Where one stage reports its steps."""

    def __init__(self, progress: Progress, stage: str, steps: int, client: Any | None) -> None:
        """`client` is the mlflow module with a run open, or None."""
        self._progress = progress
        self._stage = stage
        self._steps = steps
        self._task = progress.add_task(stage, total=steps, figures="")
        self._client = client

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Report the step just done; `figures` go to MLflow as they are."""
        text = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self._progress.update(self._task, completed=step + 1, figures=text)
        if not sys.stderr.isatty():
            print(f"{self._stage} {step + 1}/{self._steps} {text}", file=sys.stderr, flush=True)
        if self._client is None:
            return
        try:
            self._client.log_metrics(figures, step=step + 1)
        except Exception as error:  # any failure of MLflow: training is worth more
            _logger.warning("MLflow stopped taking losses (%s); training goes on without", error)
            self._client = None


@contextmanager
def training_log(stage: str, steps: int, work: Path, settings: str) -> Iterator[TrainingLog]:
    """A progress bar and an MLflow run around one stage."""
    columns = (
        TextColumn("{task.description:>7}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    client = _open_run(stage, work, settings)
    status = "FAILED"
    try:
        with Progress(*columns, disable=not sys.stderr.isatty()) as progress:
            yield TrainingLog(progress, stage, steps, client)
        status = "FINISHED"
    finally:
        if client is not None:
            try:
                client.end_run(status)
            except Exception as error:
                _logger.warning("MLflow did not close the run: %s", error)


def _open_run(stage: str, work: Path, settings: str) -> Any | None:
    try:
        import mlflow

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            work.mkdir(parents=True, exist_ok=True)
            mlflow.set_tracking_uri(f"sqlite:///{(work / 'mlflow.db').resolve()}")
        mlflow.set_experiment(EXPERIMENT)
        mlflow.start_run(run_name=f"sketchbook {stage}")
        mlflow.set_tags({"stage": stage, "settings": settings})
    except Exception as error:
        _logger.warning("no MLflow log of this stage: %s", error)
        return None
    return mlflow
