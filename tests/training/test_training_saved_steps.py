"""Weights that a training saves on the way: which they are, and that a kill costs none."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nsync_pipeline.adaptation.lora_file import read_lora_file
from nsync_pipeline.adaptation.saved_steps import (
    ChosenStep,
    chosen_weights,
    saved_steps,
    weights_digest,
    weights_of_step,
)
from nsync_pipeline.errors import MissingArtifactError, ParamsError
from nsync_pipeline.params import parse_params
from nsync_pipeline.training.config import SaveConfig, TrainingSettings
from nsync_pipeline.training.stage import run
from nsync_pipeline.workspace import LORA_FILE, Workspace, step_folder
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import folder_bytes
from tests.support.tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style

# With a constant schedule, what was trained after two of six steps is what two steps train.
TRAINING = {
    "steps": 6, "batch_size": 1, "checkpoint_every": 3, "schedule": "constant", "ema_decay": 0.9,
    "lora": {"rank": 2, "alpha": 4.0},
}  # fmt: skip
SAVING = TRAINING | {"save": {"every": 2}}

STEPS = ("steps/00000002", "steps/00000004")


def trained(workspace: Workspace, base: Path, training: dict[str, Any], **changes: Any) -> Path:
    params = tiny_params(base, training, rule="none")
    run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync", **changes))
    return workspace.model(STYLE, "nsync", 0)


@pytest.fixture
def workspace(tmp_path: Path, tiny_base: Path) -> Workspace:
    workspace = Workspace(tmp_path / "workspace")
    write_tiny_style(workspace, tiny_family(tiny_base).revision, train=2, test=0)
    return workspace


def copied(workspace: Workspace, name: str) -> Workspace:
    root = workspace.root.with_name(name)
    shutil.copytree(workspace.root, root)
    return Workspace(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A model with what it saved after the second and the fourth step."""
    workspace = Workspace(tmp_path_factory.mktemp("made"))
    write_tiny_style(workspace, tiny_family(tiny_base).revision, train=2, test=0)
    return trained(workspace, tiny_base, SAVING)


@pytest.mark.parametrize(
    ("every", "last", "steps", "saved"),
    [
        (0, None, 6, ()),
        (2, None, 6, (2, 4)),  # the sixth is the training's own
        (4, None, 9, (4, 8)),
        (2, 1, 6, (4,)),
        (1, 3, 6, (3, 4, 5)),
        (6, None, 6, ()),
    ],
)
def test_every_nth_step_before_the_end_is_saved_or_the_last_of_them(
    every: int, last: int | None, steps: int, saved: tuple[int, ...]
) -> None:
    assert SaveConfig(every=every, last=last).steps(steps) == saved


def test_what_is_saved_is_what_a_shorter_training_would_have_given(
    made: Path, workspace: Workspace, tiny_base: Path
) -> None:
    """The average of the weights, where that is what a training gives."""
    shorter = trained(workspace, tiny_base, TRAINING | {"steps": 2})
    header, after_two = read_lora_file(step_folder(made, 2) / LORA_FILE)
    _, expected = read_lora_file(shorter / LORA_FILE)
    assert after_two.keys() == expected.keys()
    assert all(torch.equal(after_two[key], expected[key]) for key in expected)
    assert (header.origin["step"], header.origin["steps"]) == ("2", "6")
    digests = {weights_digest(folder) for folder in (made, *(made / step for step in STEPS))}
    assert len(digests) == 3


def test_the_training_itself_is_the_same_whatever_it_saves(
    made: Path, workspace: Workspace, tiny_base: Path
) -> None:
    plain = folder_bytes(trained(workspace, tiny_base, TRAINING))
    saving = folder_bytes(made)
    new = {name for name in saving if name.startswith("steps/")}
    assert new == {f"{step}/{LORA_FILE}" for step in STEPS}
    assert saving.keys() - new == plain.keys()
    assert all(saving[name] == plain[name] for name in plain if name != "training.json")


def stopped_at(step: int) -> Any:
    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("training", step):
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_training_ends_with_the_same_saved_weights(
    made: Path, workspace: Workspace, tiny_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped in step 5, with a checkpoint of step 3: what step 4 saved is saved again."""
    caplog.set_level("INFO", "nsync_pipeline")
    with pytest.raises(KeyboardInterrupt):
        trained(workspace, tiny_base, SAVING, progress=stopped_at(5))
    assert folder_bytes(trained(workspace, tiny_base, SAVING)) == folder_bytes(made)
    assert "training goes on from step 3 of 6" in caplog.text


def test_where_saved_weights_were_lost_the_training_begins_anew(
    made: Path, workspace: Workspace, tiny_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(workspace, tiny_base, SAVING, progress=stopped_at(5))
    shutil.rmtree(workspace.scratch("training", STYLE, "nsync", "0") / "steps")
    assert folder_bytes(trained(workspace, tiny_base, SAVING)) == folder_bytes(made)
    assert "the weights that were saved after step 2 are not in" in caplog.text


def test_the_step_that_is_asked_for_is_found_and_another_is_said_not_to_be_there(
    made: Path,
) -> None:
    assert saved_steps(made) == (2, 4, 6)
    assert weights_of_step(made, None) == weights_of_step(made, 6) == made
    assert weights_of_step(made, 4) == step_folder(made, 4)
    with pytest.raises(MissingArtifactError, match=r"no weights of step 5; there are .*: 2, 4, 6"):
        weights_of_step(made, 5)


def test_a_choice_holds_only_for_the_weights_that_were_looked_at(made: Path) -> None:
    seen = weights_digest(step_folder(made, 4))
    assert chosen_weights(made, None, "ink, nsync-0") == made
    for choice in (ChosenStep(step=4), ChosenStep(step=4, weights=seen)):
        assert chosen_weights(made, choice, "ink, nsync-0") == step_folder(made, 4)
        assert chosen_weights(made, choice, "ink, nsync-0", asked=2) == step_folder(made, 2)
    with pytest.raises(MissingArtifactError, match="step 2 of ink, nsync-0 was chosen when"):
        chosen_weights(made, ChosenStep(step=2, weights=seen), "ink, nsync-0")


@pytest.mark.parametrize(
    ("save", "message"),
    [
        ({"every": 6}, r"save.every is 6, and there are 6 steps: nothing would be saved"),
        ({"every": 2, "last": 3}, r"save.last is 3, and save.every 2 of 6 steps gives 2"),
        ({"last": 2}, r"set save.every"),
        ({"every": -1}, r"training.save.every: -1 is not allowed"),
        ({"evry": 2}, r"did you mean every"),
    ],
)
def test_more_than_there_are_cannot_be_saved(
    tiny_base: Path, save: dict[str, int], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        tiny_params(tiny_base, TRAINING | {"save": save})


def test_a_choice_names_a_training_that_there_is(tiny_base: Path) -> None:
    params = tiny_params(tiny_base, TRAINING).model_dump(mode="json")
    params["styles"][STYLE]["use_steps"] = {"nsync": {"step": 2}}
    with pytest.raises(ParamsError, match=r"use_steps names 'nsync', which is no training .*-0"):
        parse_params(params)
