"""LoRA on a family's denoiser (PEFT): added fresh, saved, loaded, taken off.

A layer with weight ``W`` becomes ``W x + (alpha / rank) B A x``; ``A`` starts random and ``B`` at
zero, so a fresh LoRA changes nothing. Source: LoRA, arXiv 2106.09685.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora_file import LoraHeader, read_lora_file, write_lora_file
from nsync_pipeline.adaptation.trained_weights import TrainedWeights, WeightGroup
from nsync_pipeline.errors import BaseModelError, TrainingError
from nsync_pipeline.families.family import Family

logger = logging.getLogger(__name__)

ADAPTER = "default"
"""PEFT's name of the one adapter a denoiser holds here."""


def add_lora(family: Family, settings: LoraSettings, generator: torch.Generator) -> TrainedWeights:
    """Add a fresh, trainable LoRA to the family's denoiser, in float32 whatever the base's type.

    ``A`` is uniform in +-1/sqrt(fan-in) (Kaiming with a = sqrt(5), PEFT's own), drawn from the CPU
    ``generator`` in the order of the names; ``B`` is zero.

    Raises:
        TrainingError: no layer of the denoiser has a name that ends in one of the targets, or one
            that does cannot be adapted.
    """
    targets = family.lora_targets if settings.targets is None else settings.targets
    try:
        lora = _inject(family, settings.rank, settings.alpha, targets, None)
    except ValueError as error:
        raise TrainingError(
            f"training.lora.targets: {', '.join(targets)}: {family.name} cannot be adapted there; "
            f"null takes the family's own ({', '.join(family.lora_targets)}). PEFT says: {error}"
        ) from error
    with torch.no_grad():
        for name, weight in zip(lora.names, lora.weights, strict=True):
            if name.endswith("lora_A.weight"):
                bound = 1.0 / math.sqrt(weight[0].numel())
                drawn = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
                weight.copy_(drawn)
            else:
                weight.zero_()
    return lora


def save_lora(family: Family, path: Path, origin: Mapping[str, str]) -> None:
    """Save the denoiser's LoRA to ``path``, loadable by ``load_lora`` and by diffusers.

    The same weights, settings and origin always give the same bytes. ``origin`` says where the LoRA
    comes from (base model, rule, data) and is kept in the file's header.
    """
    config: Any = getattr(family.denoiser, "peft_config")[ADAPTER]  # noqa: B009 - set by PEFT
    lora = lora_weights(family)
    header = LoraHeader(
        rank=int(config.r),
        alpha=float(config.lora_alpha),
        targets=tuple(sorted(config.target_modules)),
        origin=origin,
    )
    tensors = {n: w.detach() for n, w in zip(lora.names, lora.weights, strict=True)}
    write_lora_file(path, tensors, header)


def load_lora(family: Family, path: Path, scale: float = 1.0) -> None:
    """Put the saved LoRA at ``path`` on the denoiser, frozen, at ``scale`` of its strength.

    Raises:
        BaseModelError: the denoiser holds a LoRA already, or this one does not fit it.
        MissingArtifactError: there is no such file, or it is not a LoRA this pipeline saved.
    """
    if has_lora(family):
        raise BaseModelError(f"{family.name} holds a LoRA already: take that off first")
    header, tensors = read_lora_file(path)
    try:
        lora = _inject(family, header.rank, header.alpha, header.targets, tensors)
    except ValueError as error:
        raise _unfitting(family, path, header) from error
    shapes = {n: w.shape for n, w in zip(lora.names, lora.weights, strict=True)}
    if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        remove_lora(family)
        raise _unfitting(family, path, header)
    trained_on = header.origin.get("base_revision")
    if trained_on is not None and trained_on != family.revision:
        logger.warning(
            "%s was trained on %s (%s), and is used on %s (%s)",
            path.name, header.origin.get("base_model"), trained_on, family.name, family.revision,
        )  # fmt: skip
    with torch.no_grad():
        for name, weight in zip(lora.names, lora.weights, strict=True):
            weight.copy_(tensors[name])
            weight.requires_grad_(False)
    for layer in family.denoiser.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(ADAPTER, scale)


def remove_lora(family: Family) -> None:
    """Take the LoRA off: the denoiser is the base again; nothing happens where there is none."""
    denoiser = family.denoiser
    for name, layer in list(denoiser.named_modules()):
        if isinstance(layer, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(denoiser, "peft_config"):
        del denoiser.peft_config


def has_lora(family: Family) -> bool:
    """Whether the denoiser holds a LoRA."""
    return any(isinstance(module, LoraLayer) for module in family.denoiser.modules())


def lora_weights(family: Family) -> TrainedWeights:
    """The factors of the LoRA that the family's denoiser holds, named as in its file."""
    found: dict[str, nn.Parameter] = {}
    for module, layer in family.denoiser.named_modules():
        if isinstance(layer, LoraLayer):
            name = f"{family.denoiser_prefix}.{module}"
            found[f"{name}.lora_A.weight"] = layer.lora_A[ADAPTER].weight
            found[f"{name}.lora_B.weight"] = layer.lora_B[ADAPTER].weight
    names = tuple(sorted(found))
    weights = tuple(found[name] for name in names)
    groups: tuple[WeightGroup, ...] = tuple("denoiser" for _ in names)
    return TrainedWeights(names, weights, groups)


def _inject(
    family: Family,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    tensors: Mapping[str, Tensor] | None,
) -> TrainedWeights:
    """Add LoRA layers at ``targets``, or exactly where ``tensors`` has factors."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
    # PEFT draws initial weights from the global generator; they are replaced, so leave it alone.
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(
            config,
            family.denoiser,
            ADAPTER,
            state_dict=None if tensors is None else _of_denoiser(family, tensors),
        )
    lora = lora_weights(family)
    for weight in lora.weights:
        weight.data = weight.data.float()
    return lora


def _unfitting(family: Family, path: Path, header: LoraHeader) -> BaseModelError:
    return BaseModelError(
        f"{path} does not fit {family.name} ({family.revision}): it was trained on "
        f"{header.origin.get('base_model')} ({header.origin.get('base_revision')})"
    )


def _of_denoiser(family: Family, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{family.denoiser_prefix}."): t for name, t in tensors.items()}
