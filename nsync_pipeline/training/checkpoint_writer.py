"""Checkpoints are written beside the training, which waits for their copy to the CPU alone."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Self

from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.state import TrainingState

logger = logging.getLogger(__name__)

SLOW = 1.0
"""Seconds after which a checkpoint that is still being written makes the next one be left out."""


class CheckpointWriter:
    """Writes checkpoints in a thread beside the training, one at a time.

    However the training ends, what was begun is written before it has.
    """

    def __init__(self, folder: CheckpointFolder, minutes: float | None = None) -> None:
        """``minutes``: after so many without a checkpoint there is one."""
        self._folder, self._minutes = folder, minutes
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def is_due(self, by_steps: bool) -> bool:
        """Whether to begin another: none is while one takes long."""
        passed = time.monotonic() - self._began
        if not by_steps and (self._minutes is None or passed < 60 * self._minutes):
            return False
        return self._writing is None or not wait([self._writing], max(0, SLOW - passed)).not_done

    def begin(self, state: TrainingState) -> None:
        """Write where the training is now; raises where the one before was not written."""
        self.require_written()
        self._began = time.monotonic()
        self._writing = self._thread.submit(self._folder.write, state.checkpoint())

    def require_no_error(self) -> None:
        """Raise what writing raised; waits for nothing."""
        if self._writing is not None and self._writing.done():
            self.require_written()

    def require_written(self) -> None:
        """Wait for what was begun; raises what writing raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._thread:  # which waits, too
            try:
                self.require_written()
            except Exception as not_written:
                if error is None:
                    raise
                logger.warning("the last checkpoint was not written: %s", not_written)
