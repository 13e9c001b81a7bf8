"""An existing LoRA, or another adapter, as the start of a training: of the same shape, exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nsync_pipeline.adaptation.foreign_lora import is_foreign, load_foreign_lora
from nsync_pipeline.adaptation.lora import ADAPTER, lora_layers, lora_weights, remove_lora
from nsync_pipeline.adaptation.lora_file import put_back, read_lora_file
from nsync_pipeline.adaptation.lycoris import MARKS, kind_of
from nsync_pipeline.adaptation.trained_weights import adapted_models_of
from nsync_pipeline.errors import BaseModelError, MissingArtifactError, TrainingError
from nsync_pipeline.families.family import Family

KEY = "training.lora.start_from"


@dataclass(frozen=True)
class ExistingLora:
    """What a file holds, by the names that a fresh one on the same layers has."""

    path: Path
    weights: Mapping[str, Tensor]
    scales: Mapping[str, float]  # what each layer's product is multiplied by


def read_existing(family: Family, path: Path) -> ExistingLora:
    """What the file at ``path``, ours or another program's, puts on ``family``, which has none.

    Raises:
        TrainingError: it is not there, cannot be read, or is of another base.
    """
    try:
        if not path.is_file():
            raise MissingArtifactError(f"{path} is not a file that is there")
        if is_foreign(path):
            load_foreign_lora(family, path)
        else:
            _put_own(family, path)
    except (BaseModelError, MissingArtifactError) as error:
        raise TrainingError(f"{KEY}: {error}") from error
    found = lora_weights(family)
    weights = {n: w.detach().clone() for n, w in zip(found.names, found.weights, strict=True)}
    scales = _scales(family)
    remove_lora(family)
    return ExistingLora(path, weights, scales)


def _put_own(family: Family, path: Path) -> None:
    header, tensors = read_lora_file(path)
    of_base = header.origin.get("base_revision")
    try:
        if of_base not in (None, family.revision):
            raise ValueError("another base")
        put_back(family, header, tensors)
    except ValueError as error:
        remove_lora(family)
        raise BaseModelError(
            f"{path} was trained on {header.origin.get('base_model')} ({of_base}), and base_model "
            f"is {family.name} ({family.revision})"
        ) from error


def _scales(family: Family) -> dict[str, float]:
    return {
        model.key(name): float(layer.scaling[ADAPTER])
        for model in adapted_models_of(family)
        for name, layer in lora_layers(model.model)
    }


@torch.no_grad()
def begin_from(family: Family, existing: ExistingLora) -> None:
    """Give the fresh LoRA on ``family`` the existing one's weights: it acts as that does.

    Where a layer's scale is another, the difference is multiplied into one factor.

    Raises:
        TrainingError: it is of another kind, of other layers or of another rank.
    """
    fresh = lora_weights(family)
    own = dict(zip(fresh.names, fresh.weights, strict=True))
    file, kinds = existing.path, [kind_of(dict.fromkeys(n)) for n in (existing.weights, own)]
    if kinds[0] != kinds[1]:
        raise TrainingError(
            f"{KEY}: {file} holds a {kinds[0]}, and training.lora.kind is {kinds[1]}"
        )
    if existing.weights.keys() != own.keys():
        others = sorted(existing.weights.keys() ^ own.keys())
        where = "it has" if others[0] in existing.weights else "it lacks"
        raise TrainingError(
            f"{KEY}: {file} adapts other layers than training.lora says ({where} {others[0]} and "
            f"{len(others) - 1} more): give targets, text_encoder and dora as it was trained with"
        )
    for name, weight in own.items():
        if existing.weights[name].shape != weight.shape:
            raise TrainingError(
                f"{KEY}: {file} has {tuple(existing.weights[name].shape)} at {name}, and "
                f"training.lora gives {tuple(weight.shape)}: set rank, ranks and factor to its own"
            )
    scales, mark = _scales(family), MARKS[kinds[1]]
    scaled: set[str] = set()
    for name in sorted(own, reverse=kinds[1] == "lora"):  # of a LoRA into B, which is drawn to 0
        layer = name.partition(mark)[0]
        factor = existing.scales[layer] / scales[layer]
        is_first = layer not in scaled and "magnitude" not in name
        own[name].copy_(existing.weights[name] * (factor if is_first else 1.0))
        if is_first:
            scaled.add(layer)
