"""What pictures on demand are drawn with: the base as it is, a variant, or a LoRA's file."""

from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.adaptation.foreign_lora import is_foreign, load_foreign_lora
from nsync_pipeline.adaptation.textual_inversion import trained_style_word
from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.errors import MissingArtifactError, UserError
from nsync_pipeline.families.family import Family
from nsync_pipeline.files import file_sha256
from nsync_pipeline.params import Params
from nsync_pipeline.workspace import BASE, Workspace, trained_files


@dataclass(frozen=True)
class DrawingModel:
    """The base, and what is put on it."""

    name: str  # base, a variant, or a file's name
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
    params.variant(variant)
    if style is None or settings is None:
        raise UserError(f"variant {variant!r} was trained once a style: say which style")
    seed = params.training_seed(training_seed)
    folder = workspace.model(style, variant, seed)
    if not trained_files(folder):
        raise MissingArtifactError(
            f"{folder} holds no trained weights: run the training stage of {variant!r} on "
            f"{style!r} at training seed {seed} first."
        )
    words = trained_style_word(folder, settings.placeholder)
    return DrawingModel(variant, folder, words, style)


def training_with(
    workspace: Workspace, params: Params, style: str, variant: str, weights_sha256: str | None
) -> int | None:
    """The training seed of ``variant`` whose weights these are; None where it is none of them."""
    for seed in params.training_seeds:
        if weights_sha256 and _sha256_of(workspace.model(style, variant, seed)) == weights_sha256:
            return seed
    return None


def _sha256_of(place: Path) -> str:
    return "+".join(file_sha256(file) for file in trained_files(place))
