"""All that a variant trains: added to a family, saved, loaded, taken off."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch

from nsync_pipeline.adaptation.config import LoraSettings, TextualInversionSettings
from nsync_pipeline.adaptation.existing_lora import begin_from, read_existing
from nsync_pipeline.adaptation.lora import add_lora, remove_lora
from nsync_pipeline.adaptation.lora_file import load_lora, save_lora
from nsync_pipeline.adaptation.safetensors_file import read_metadata
from nsync_pipeline.adaptation.textual_inversion import (
    PLACEHOLDER_METADATA,
    add_token_vectors,
    load_token_vectors,
    remove_token_vectors,
    save_token_vectors,
    style_word,
)
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.errors import MissingArtifactError, TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.noise_schedules import use_own_schedule
from nsync_pipeline.workspace import EMBEDDINGS_FILE, LORA_FILE, trained_files


def add_trainables(
    family: Family,
    lora: LoraSettings | None,
    textual_inversion: TextualInversionSettings | None,
    generator: torch.Generator,
    *,
    placeholder: str = "style",
    generic_style: str = "painting",
    folder: Path = Path(),
) -> TrainedWeights:
    """Add what is trained to the family, fresh.

    Args:
        family: holds nothing of the kind yet.
        lora: None: none.
        textual_inversion: None: none. One of the two is given.
        generator: of the CPU; what is random at the start is drawn from it.
        placeholder: textual inversion trains ``style_word`` of it.
        generic_style: textual inversion starts from it, unless its settings say from what.
        folder: that ``lora.start_from`` is relative to.

    Raises:
        TrainingError: the family cannot be adapted as asked.
    """
    parts = []
    if lora is not None:
        parts.append(_lora(family, lora, generator, folder))
    if textual_inversion is not None:
        word = style_word(placeholder, textual_inversion)
        initializer = textual_inversion.initializer or generic_style
        try:
            vectors = add_token_vectors(family, textual_inversion, word, initializer, generator)
        except TrainingError:
            remove_lora(family)
            raise
        parts.append(vectors)
    entries = [zip(part.names, part.weights, part.groups, strict=True) for part in parts]
    return TrainedWeights.of(chain.from_iterable(entries))


def _lora(
    family: Family, settings: LoraSettings, generator: torch.Generator, folder: Path
) -> TrainedWeights:
    if settings.start_from is None:
        return add_lora(family, settings, generator)
    existing = read_existing(family, folder / Path(settings.start_from).expanduser())
    fresh = add_lora(family, settings, generator)
    try:
        begin_from(family, existing)
    except TrainingError:
        remove_lora(family)
        raise
    return fresh


def save_trained(
    family: Family, trained: TrainedWeights, folder: Path, origin: Mapping[str, str]
) -> None:
    """Save what is trained to ``folder``; the same weights and origin give the same bytes.

    ``origin["placeholder"]`` is the word that token vectors are for.
    """
    if set(trained.groups) - {"embedding"}:
        save_lora(family, folder / LORA_FILE, origin)
    if "embedding" in trained.groups:
        save_token_vectors(family, folder / EMBEDDINGS_FILE, origin["placeholder"], origin)


def load_trained(family: Family, place: Path) -> None:
    """Put what ``place`` holds on the family, frozen.

    ``place`` is a model's folder, or one of its files.

    Raises:
        BaseModelError: the family holds trained weights already, or these do not fit it.
        MissingArtifactError: there are none, or they are not what this pipeline saved.
    """
    files = trained_files(place)
    if not files:
        raise MissingArtifactError(f"{place} holds neither {LORA_FILE} nor {EMBEDDINGS_FILE}")
    for file in files:
        if PLACEHOLDER_METADATA in read_metadata(file):
            load_token_vectors(family, file)
        else:
            load_lora(family, file)


def remove_trained(family: Family) -> None:
    """Take off what ``add_trainables`` or ``load_trained`` put on; nothing where there is none.

    The family draws on its own noise schedule again.
    """
    remove_lora(family)
    remove_token_vectors(family)
    use_own_schedule(family)
