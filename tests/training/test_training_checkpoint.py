"""Checkpoints are whole or not used."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nsync_pipeline.contrast.branch_gradients import MemoryPlan
from nsync_pipeline.training.checkpoint import (
    HISTORY,
    Best,
    Checkpoint,
    CheckpointFolder,
    differences,
)
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.optimizer import LossScale


def losses(step: int) -> dict[int, float]:
    """Held-out, of the start and of every step."""
    return {0: 0.5} | dict.fromkeys(range(1, step + 1), 0.1 + 0.2)


RECORD = StepRecord(1, 0.1, 0.2, None, 1 / 3, 2.0, None, -0.25, None, 0.25, 0.3, 1e-3)


def checkpoint(step: int) -> Checkpoint:
    tensors = {"weight.0": torch.full((2, 3), step / 3), "optimizer.0.exp_avg": torch.arange(6.0)}
    return Checkpoint(
        step,
        tensors,
        (RECORD,) * step,
        losses(step),
        MemoryPlan(fused=False, micro_batch=2),
        LossScale(2.0**14, 7),
        Best(1, 1 / 3),
    )


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(
        tmp_path / "ink" / "nsync", {"training": {"learning_rate": 0.1}, "the pictures": "a" * 64}
    )


def files(folder: CheckpointFolder) -> list[Path]:
    return sorted(folder.path.glob("step_*"))


def test_nothing_there_is_none(folder: CheckpointFolder) -> None:
    assert folder.latest() is None


def test_the_newest_comes_back_to_the_last_digit(folder: CheckpointFolder) -> None:
    folder.write(checkpoint(1))
    folder.write(checkpoint(2))
    latest = folder.latest()
    assert latest is not None
    assert latest.step == 2
    assert latest.history == checkpoint(2).history
    assert latest.held_out == losses(2)
    assert torch.equal(latest.tensors["weight.0"], torch.full((2, 3), 2 / 3))
    assert latest.plan == MemoryPlan(fused=False, micro_batch=2)
    assert latest.loss_scale == LossScale(2.0**14, 7)
    assert latest.best == Best(1, 1 / 3)


def test_what_is_not_there_comes_back_as_none(folder: CheckpointFolder) -> None:
    folder.write(replace(checkpoint(1), loss_scale=None, best=None))
    latest = folder.latest()
    assert latest is not None
    assert (latest.loss_scale, latest.best) == (None, None)


def test_two_are_kept(folder: CheckpointFolder) -> None:
    for step in (1, 2, 10, 11):
        folder.write(checkpoint(step))
    assert [path.name for path in files(folder)] == [
        "step_00000010.checkpoint",
        "step_00000011.checkpoint",
    ]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    folder: CheckpointFolder, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write(checkpoint(1))
    folder.write(checkpoint(2))
    newest = files(folder)[-1]
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        newest.write_bytes(content[:-5])
    elif damage == "flipped":
        content[-1] ^= 1  # one bit of one number: no format would notice
        newest.write_bytes(content)
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.write_text("this is not a checkpoint, and is longer than a digest of 64 digits")
    latest = folder.latest()
    assert latest is not None
    assert latest.step == 1
    aside = newest.with_name(newest.name + ".set-aside")
    assert aside.is_file()
    assert f"{newest} is damaged: it is not used, and kept aside as {aside.name}" in caplog.text


def test_all_damaged_is_a_new_start(
    folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write(checkpoint(1))
    folder.write(checkpoint(2))
    for path in files(folder):
        path.write_bytes(b"")
    assert folder.latest() is None
    assert caplog.text.count("is damaged") == 2


def with_inputs(folder: CheckpointFolder, **changes: Any) -> CheckpointFolder:
    return replace(folder, inputs={**folder.inputs, **changes})


def test_checkpoints_of_other_inputs_are_kept_aside_and_the_log_says_why(
    folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write(checkpoint(1))
    other = with_inputs(folder, training={"learning_rate": 0.2}, **{"the pictures": "b" * 64})
    assert other.latest() is None
    assert not folder.path.exists()
    assert [path.name for path in folder.aside.glob("step_*")] == ["step_00000001.checkpoint"]
    assert (
        "up to step 1, are of another training and are kept aside as nsync.set-aside: "
        "the pictures: not the same; training.learning_rate was 0.1 and is 0.2"
    ) in caplog.text


def test_what_is_set_aside_later_takes_the_place_of_what_was(folder: CheckpointFolder) -> None:
    """Of three trainings, that of the second stays; and comes back, while the third's goes."""
    folder.write(checkpoint(1))
    second = with_inputs(folder, training={"learning_rate": 0.2})
    third = with_inputs(folder, training={"learning_rate": 0.3})
    assert second.latest() is None
    second.write(checkpoint(2))
    assert third.latest() is None
    third.write(checkpoint(3))
    latest = second.latest()
    assert latest is not None
    assert latest.step == 2
    assert [path.name for path in files(folder)] == ["step_00000002.checkpoint"]
    assert [path.name for path in folder.aside.glob("step_*")] == ["step_00000003.checkpoint"]


def test_differences_are_named_by_their_keys() -> None:
    before = {"training": {"lora": {"rank": 2}, "steps": 5}, "seed": 0, "same": [1]}
    now = {"training": {"lora": None, "steps": 5}, "seed": 1, "same": [1]}
    assert differences(before, now) == (
        "seed was 0 and is 1; training.lora was not there and is null; "
        "training.lora.rank was 2 and is not there"
    )


def test_what_a_killed_write_left_is_not_read(folder: CheckpointFolder) -> None:
    folder.write(checkpoint(1))
    (folder.path / ".step_00000002.checkpoint.1.partial").write_bytes(b"half")
    latest = folder.latest()
    assert latest is not None
    assert latest.step == 1
    folder.write(checkpoint(2))
    assert len(files(folder)) == 2


def test_a_checkpoint_costs_the_same_after_many_steps_as_after_few(
    folder: CheckpointFolder,
) -> None:
    """Of the history only what is new is written; all of it comes back."""
    at = [1000, 1001, 9000, 9001]
    written: list[tuple[int, int]] = []
    for step in at:
        before = (folder.path / HISTORY).stat().st_size if written else 0
        folder.write(checkpoint(step))
        added = (folder.path / HISTORY).stat().st_size - before
        written.append((files(folder)[-1].stat().st_size, added))
    assert written[1][0] == pytest.approx(written[3][0], abs=16)  # digits of numbers
    assert written[1][1] == pytest.approx(written[3][1], abs=16)
    latest = folder.latest()
    assert latest is not None
    assert latest.history == checkpoint(9001).history
    assert latest.held_out == losses(9001)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_history_that_is_not_what_was_written_is_not_gone_on_with(
    folder: CheckpointFolder, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut within the last step's line, the checkpoint before is whole."""
    folder.write(checkpoint(1))
    folder.write(checkpoint(2))
    history = folder.path / HISTORY
    content = bytearray(history.read_bytes())
    if damage == "cut":
        history.write_bytes(content[:-5])
    elif damage == "flipped":
        content[20] ^= 1
        history.write_bytes(content)
    else:
        history.unlink()
    latest = replace(folder).latest()
    assert (None if latest is None else latest.step) == (1 if damage == "cut" else None)
    assert "is damaged" in caplog.text


def test_what_was_written_after_the_checkpoint_gone_on_from_is_forgotten(
    folder: CheckpointFolder,
) -> None:
    """As where a process is killed between the history and the checkpoint of steps 2 and 3."""
    folder.write(checkpoint(1))
    early = folder.path.with_name("early")
    shutil.copytree(folder.path, early)
    folder.write(checkpoint(3))
    shutil.copyfile(folder.path / HISTORY, early / HISTORY)
    again = replace(folder, path=early)
    latest = again.latest()
    assert latest is not None
    assert latest.step == 1
    again.write(checkpoint(2))
    latest = replace(again).latest()
    assert latest is not None
    assert latest.history == checkpoint(2).history
    assert latest.held_out == losses(2)
