"""What pictures on demand are drawn with: the base as it is, a variant, or a LoRA's file.

A variant's weights are its last ones, or those that a person chose (``use_steps`` in params.yaml);
``nsync@50`` names those that were saved after step 50.
"""

from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.adaptation.foreign_lora import is_foreign, load_foreign_lora
from nsync_pipeline.adaptation.saved_steps import chosen_weights
from nsync_pipeline.adaptation.textual_inversion import trained_style_word
from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.errors import MissingArtifactError, UserError
from nsync_pipeline.families.family import Family
from nsync_pipeline.files import file_sha256
from nsync_pipeline.params import Params
from nsync_pipeline.workspace import BASE, TrainingRun, Workspace, trained_files


@dataclass(frozen=True)
class DrawingModel:
    """The base, and what is put on it."""

    name: str  # base, a variant, one at a step, or a file's name
    place: Path | None  # a model's folder, or a file; None: the base as it is
    words: str | None  # what prompts call the style; None: prompts are taken as they are
    style: str | None  # the style's name, where one was named

    def prompt(self, prompt: str) -> str:
        """``prompt`` as this model is asked for it."""
        return prompt if self.words is None else styled_prompt(prompt, self.words)

    def weights_sha256(self) -> str | None:
        """Of what is put on the base; None where that is nothing."""
        return None if self.place is None else _sha256_of(self.place)

    def put_on(self, family: Family) -> None:
        """Put it on ``family``, frozen.

        Raises:
            BaseModelError: it does not fit.
            MissingArtifactError: it is damaged.
        """
        if self.place is None:
            return
        if self.place.is_file() and is_foreign(self.place):
            load_foreign_lora(family, self.place)
        else:
            load_trained(family, self.place)


def drawing_model(
    workspace: Workspace,
    params: Params,
    style: str | None,
    variant: str | None,
    lora: Path | None = None,
    training_seed: int | None = None,
) -> DrawingModel:
    """The model that is asked for; neither a variant nor a file means the base.

    Of a variant it is the training with ``training_seed``; None: the first of ``training_seeds``.
    ``variant`` may name a step, as ``variant_and_step`` reads it.

    Raises:
        UserError: variant, style and file do not go together.
        ParamsError: there is no such style, variant or training seed.
        MissingArtifactError: the file is not there, or the variant is not trained.
    """
    settings = None if style is None else params.style(style)
    if lora is not None:
        if variant is not None:
            raise UserError("give a variant or a LoRA's file, not both")
        if not trained_files(lora):
            raise MissingArtifactError(f"{lora} is not there: give the LoRA's .safetensors file")
        words = None if settings is None else trained_style_word(lora, settings.placeholder)
        return DrawingModel(lora.name, lora, words, style)
    if variant is None or variant == BASE:
        words = None if settings is None else settings.generic_style
        return DrawingModel(BASE, None, words, style)
    params.variant(variant_and_step(variant)[0])
    if style is None or settings is None:
        raise UserError(f"variant {variant!r} was trained once a style: say which style")
    seed = params.training_seed(training_seed)
    folder = trained_place(workspace, params, style, variant, seed)
    words = trained_style_word(folder, settings.placeholder)
    return DrawingModel(variant, folder, words, style)


def variant_and_step(name: str) -> tuple[str, int | None]:
    """``nsync@50`` as the variant and the step; without a step None.

    Raises:
        UserError: what stands behind the @ is no step.
    """
    variant, at, step = name.partition("@")
    if not at:
        return name, None
    if not (step.isdecimal() and int(step) > 0):
        raise UserError(f"{name}: behind the @ a step is needed, such as {variant}@50")
    return variant, int(step)


def trained_place(
    workspace: Workspace, params: Params, style: str, name: str, training_seed: int
) -> Path:
    """The folder with the weights of ``name``, a variant or one at a step.

    Raises:
        MissingArtifactError: it is not trained, has no such step, or is not the one that was
            chosen.
    """
    variant, step = variant_and_step(name)
    model = workspace.model(style, variant, training_seed)
    if not trained_files(model):
        raise MissingArtifactError(
            f"{model} holds no trained weights: run the training stage of {variant!r} on "
            f"{style!r} at training seed {training_seed} first."
        )
    training = TrainingRun(variant, training_seed).name
    chosen = params.style(style).use_steps.get(training)
    return chosen_weights(model, chosen, f"{style}, {training}", step)


def training_with(
    workspace: Workspace, params: Params, style: str, name: str, weights_sha256: str | None
) -> int | None:
    """The training seed of ``name`` whose weights these are; None where it is none of them."""
    for seed in params.training_seeds:
        try:
            place = trained_place(workspace, params, style, name, seed)
        except MissingArtifactError:
            continue
        if _sha256_of(place) == weights_sha256:
            return seed
    return None


def _sha256_of(place: Path) -> str:
    return "+".join(file_sha256(file) for file in trained_files(place))
