"""Weights that a training saved on the way, and which of them a person chose to go on with."""

import hashlib
from pathlib import Path

from pydantic import Field

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import file_sha256, read_json
from nsync_pipeline.settings import Section
from nsync_pipeline.workspace import STEPS_FOLDER, step_folder, trained_files


class ChosenStep(Section):
    """A value of ``styles.<style>.use_steps`` in params.yaml: ``nsync choose`` writes it."""

    step: int = Field(ge=1, description="the optimizer step whose weights are used")
    weights: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{16}$",
        description="16 digits over the weights that were looked at; with others there, nothing is "
        "drawn; null: whichever are there",
    )


def own_step(model: Path) -> int | None:
    """The step that the weights of a model's folder itself are of; None where it does not say."""
    try:
        step: int = read_json(model / "training.json")["kept_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step


def saved_steps(model: Path) -> tuple[int, ...]:
    """The steps that there are weights of, the model's own among them."""
    folders = (model / STEPS_FOLDER).glob("[0-9]*")
    steps = {int(folder.name) for folder in folders if trained_files(folder)}
    own = own_step(model) if trained_files(model) else None
    return tuple(sorted(steps if own is None else steps | {own}))


def weights_of_step(model: Path, step: int | None) -> Path:
    """The folder with the weights after ``step``; None: the model's own.

    Raises:
        MissingArtifactError: there are none.
    """
    if step is None or step == own_step(model):
        return model
    folder = step_folder(model, step)
    if not trained_files(folder):
        there = ", ".join(map(str, saved_steps(model))) or "none"
        raise MissingArtifactError(
            f"{model} holds no weights of step {step}; there are those of: {there}. What a "
            "training saves on the way, training.save in params.yaml says."
        )
    return folder


def weights_digest(folder: Path) -> str:
    """16 digits over what ``folder`` holds of trained weights."""
    files = "".join(file_sha256(file) for file in trained_files(folder))
    return hashlib.sha256(files.encode()).hexdigest()[:16]


def chosen_weights(
    model: Path, chosen: ChosenStep | None, training: str, asked: int | None = None
) -> Path:
    """The folder with the weights that are used of ``training``.

    Those of the step that is ``asked`` for; else the ones that were ``chosen``; else its own.

    Raises:
        MissingArtifactError: they are not there, or those that were chosen are others by now.
    """
    if asked is not None or chosen is None:
        return weights_of_step(model, asked)
    folder = weights_of_step(model, chosen.step)
    if chosen.weights not in (None, weights_digest(folder)):
        raise MissingArtifactError(
            f"step {chosen.step} of {training} was chosen when its weights were others: it was "
            "trained anew since. Look at it again, then say `nsync choose` again, or take the "
            "choice out (`nsync choose --clear`)."
        )
    return folder
