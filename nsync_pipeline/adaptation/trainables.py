"""All that a variant trains: added to a family, saved, loaded, taken off."""

from collections.abc import Mapping
from pathlib import Path

import torch

from nsync_pipeline.adaptation.config import LoraSettings, TextualInversionSettings
from nsync_pipeline.adaptation.lora import add_lora, load_lora, remove_lora, save_lora
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.artifacts import LORA_FILE
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family


def add_trainables(
    family: Family,
    lora: LoraSettings | None,
    textual_inversion: TextualInversionSettings | None,
    generator: torch.Generator,
) -> TrainedWeights:
    """Add what is trained to the family, fresh; ``generator`` is the CPU's.

    Raises:
        TrainingError: the family cannot be adapted as asked.
    """
    if textual_inversion is not None or lora is None:
        raise TrainingError("training.textual_inversion: only null is possible yet")
    return add_lora(family, lora, generator)


def save_trained(
    family: Family, trained: TrainedWeights, folder: Path, origin: Mapping[str, str]
) -> None:
    """Save what is trained to ``folder``; the same weights and origin give the same bytes."""
    save_lora(family, folder / LORA_FILE, origin)


def load_trained(family: Family, folder: Path, scale: float = 1.0) -> None:
    """Put what ``folder`` holds on the family, frozen; the LoRA at ``scale`` of its strength.

    Raises:
        BaseModelError: the family holds trained weights already, or these do not fit it.
        MissingArtifactError: there are none, or they are not what this pipeline saved.
    """
    load_lora(family, folder / LORA_FILE, scale)


def remove_trained(family: Family) -> None:
    """Take off what ``add_trainables`` or ``load_trained`` put on; nothing where there is none."""
    remove_lora(family)
