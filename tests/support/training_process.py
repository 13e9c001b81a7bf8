"""The training stage in a process of its own, that can be told where to die."""

import os
import shutil
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from nsync_pipeline.params import Params
from nsync_pipeline.training import checkpoint_writer
from nsync_pipeline.training import stage as training
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.workspace import Workspace
from tests.support.contexts import stage_context

IN_A_CHECKPOINT = "in a checkpoint"
IN_THE_RESULT = "in the result"


def train_in_process(
    root: Path, params: Params, style: str, variant: str, dies: str | None, steps: Connection
) -> None:
    """Run the stage; send the number of every step that is done.

    Args:
        root: the workspace.
        params: its settings.
        style: which style.
        variant: which variant.
        dies: ``IN_A_CHECKPOINT``: by SIGKILL while the second checkpoint is half written;
            ``IN_THE_RESULT``: when the LoRA is written and the history is not.
        steps: where to send the steps done.
    """
    torch.set_num_threads(1)
    checkpoint_writer.SLOW = 60.0  # none is left out on a busy machine
    if dies == IN_A_CHECKPOINT:
        _die_in_the_second_checkpoint()
    if dies == IN_THE_RESULT:
        training.history_csv = _die  # type: ignore[assignment, attr-defined]

    def progress(what: str, done: int, total: int) -> None:
        if what == "training":
            steps.send(done)

    result = training.run(
        stage_context(TrainingSettings, Workspace(root), params, style, variant, progress=progress)
    )
    for leftover in result.leftovers:
        shutil.rmtree(leftover, ignore_errors=True)


def _die_in_the_second_checkpoint() -> None:
    files: set[str] = set()
    fsync = os.fsync

    def dying_fsync(descriptor: int) -> None:
        file = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if file.endswith(".partial") and ".checkpoint." in file:
            files.add(file)
            if len(files) == 2:
                os.truncate(file, os.fstat(descriptor).st_size // 2)
                _die()
        fsync(descriptor)

    os.fsync = dying_fsync  # type: ignore[assignment]


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
