"""Checkpoints are written beside the training: one at a time, whole, and none is lost."""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nsync_pipeline.adaptation.lora import remove_lora
from nsync_pipeline.adaptation.trainables import add_trainables
from nsync_pipeline.errors import TrainingError, UserError
from nsync_pipeline.families.family import Family
from nsync_pipeline.files import disk_full_explained
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.checkpoint import Checkpoint, CheckpointFolder
from nsync_pipeline.training.checkpoint_writer import CheckpointWriter
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.loop import train
from tests.support.tiny_training import LORA, examples, family

__all__ = ["examples", "family"]  # fixtures

FULL = OSError(errno.ENOSPC, "No space left on device")


class Disk:
    """A folder that holds each write until it is let go on, and a training that it is of."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.begun: list[int] = []
        self.done: list[int] = []
        self.error: Exception | None = None
        self._taken = 0

    def write(self, checkpoint: int) -> None:
        assert self.begun == self.done, "one at a time"
        self.begun.append(checkpoint)
        assert self.goes_on.wait(10)
        if self.error is not None:
            raise self.error
        self.done.append(checkpoint)

    def checkpoint(self) -> int:
        self._taken += 1
        return self._taken


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.goes_on.set()


def writer_on(disk: Disk, minutes: float | None = None) -> CheckpointWriter:
    folder: Any = disk
    return CheckpointWriter(folder, minutes)


@contextmanager
def let_go_after(disk: Disk, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, disk.goes_on.set)
    timer.start()
    yield
    timer.join()


def test_the_training_goes_on_meanwhile_and_the_next_checkpoint_waits(disk: Disk) -> None:
    state: Any = disk
    with writer_on(disk) as writer:
        writer.begin(state)
        assert disk.done == []  # and yet here we are
        with let_go_after(disk, 0.05):
            writer.begin(state)
        assert disk.done[:1] == [1]
    assert disk.done == [1, 2]


def test_they_come_by_steps_by_time_and_not_while_one_takes_long(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, state = 1000.0, disk
    of_training: Any = state
    monkeypatch.setattr("nsync_pipeline.training.checkpoint_writer.time.monotonic", lambda: now)
    with writer_on(disk) as by_steps, writer_on(Disk(), minutes=2.0) as by_time:
        assert by_steps.is_due(True)
        assert not by_time.is_due(False)
        now += 120.0
        assert by_time.is_due(False)
        assert not by_steps.is_due(False)
        by_steps.begin(of_training)
        now += 1.0
        assert not by_steps.is_due(True)
        with let_go_after(disk, 0.05):
            now -= 1.0
            assert by_steps.is_due(True)  # a quick one is waited for
        assert disk.done == [1]
        now += 1000.0
        assert by_steps.is_due(True)


@pytest.mark.parametrize("is_last", [False, True])
def test_a_full_disk_is_told_at_the_next_step_or_at_the_end(
    disk: Disk, tmp_path: Path, is_last: bool
) -> None:
    state: Any = disk
    disk.error = FULL
    disk.goes_on.set()

    def trained() -> None:
        with disk_full_explained(tmp_path), writer_on(disk) as writer:
            writer.require_no_error()
            writer.begin(state)
            steps = 0
            while not is_last:
                writer.require_no_error()
                steps += 1
                assert steps < 10**7

    with pytest.raises(UserError, match="The disk is full"):
        trained()
    assert disk.done == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, TrainingError])
def test_however_the_training_ends_what_was_begun_is_written(
    disk: Disk, stop: type[BaseException]
) -> None:
    state: Any = disk
    with pytest.raises(stop), let_go_after(disk, 0.05), writer_on(disk) as writer:  # noqa: PT012
        writer.begin(state)
        raise stop
    assert disk.done == [1]


def test_why_a_training_ended_is_not_hidden_by_what_was_not_written(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    state: Any = disk
    disk.error = FULL
    disk.goes_on.set()
    with pytest.raises(KeyboardInterrupt), writer_on(disk) as writer:  # noqa: PT012
        writer.begin(state)
        raise KeyboardInterrupt
    assert "the last checkpoint was not written: [Errno 28] No space left" in caplog.text


def test_what_is_written_is_of_the_step_it_was_begun_after(
    family: Family, examples: EncodedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of step 2 is written once step 4 is taken; it goes on from there to the same
    bits."""
    settings = TrainingConfig.model_validate(
        {
            "steps": 5, "batch_size": 2, "checkpoint_every": 2, "lora": LORA, "ema_decay": 0.8,
            "contrast": {"negative_estimate": "running_mean"}, "learning_rate": 0.01,
        }
    )  # fmt: skip
    taken: list[int] = []
    two_later = threading.Event()

    def run(folder: Path, on_step: Callable[[StepRecord], None]) -> bytes:
        remove_lora(family)
        assert settings.lora is not None
        lora = add_trainables(family, settings.lora, None, torch_stream(0, "lora"))
        train(family, lora, examples, settings, 0, CheckpointFolder(folder, {}), on_step=on_step)
        return b"".join(weight.detach().numpy().tobytes() for weight in lora.weights)

    def stop(record: StepRecord) -> None:
        if record.step == 4:
            two_later.set()
            raise KeyboardInterrupt

    write = CheckpointFolder.write

    def late(folder: CheckpointFolder, checkpoint: Checkpoint) -> None:
        assert two_later.wait(10)
        write(folder, checkpoint)

    unbroken = run(tmp_path / "unbroken", lambda record: None)
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointFolder, "write", late)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", stop)
    seen = [path.name for path in (tmp_path / "broken").glob("step_*")]
    assert seen == ["step_00000002.checkpoint"]
    assert run(tmp_path / "broken", lambda record: taken.append(record.step)) == unbroken
    assert taken == [1, 2, 3, 4, 5]
