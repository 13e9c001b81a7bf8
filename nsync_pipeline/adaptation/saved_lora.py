"""A LoRA goes to a file, and comes back from it."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from nsync_pipeline.adaptation.adapted_models import AdaptedModel, adapted_models_of
from nsync_pipeline.adaptation.lora import has_lora, lora_dtype, lora_weights, remove_lora
from nsync_pipeline.adaptation.lora_file import (
    AdapterHeader,
    LoraHeader,
    read_lora_file,
    write_lora_file,
)
from nsync_pipeline.adaptation.lora_layers import (
    ADAPTER,
    START,
    inject,
    lora_layers,
    use,
    weights_of,
)
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.zero_terminal_snr import draw_as_trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _SavedLayer:
    """One adapted layer as its file has it."""

    name: str
    parts: Mapping[str, Tensor]  # float32, by what the file calls them
    rank: int
    alpha: float


def save_lora(family: Family, path: Path, origin: Mapping[str, str]) -> None:
    """Save the LoRA to ``path``, loadable by ``load_lora`` and by diffusers.

    The same weights, settings and origin always give the same bytes. ``origin`` says where the LoRA
    comes from (base model, rule, data) and is kept in the file's header.
    """
    tensors: dict[str, Tensor] = {}
    adapters: dict[str, AdapterHeader] = {}
    for model in adapted_models_of(family):
        layers = [_saved(name, layer) for name, layer in lora_layers(model.model)]
        if layers:
            adapters[model.component] = _header(layers)
        for layer in layers:
            tensors |= {f"{model.key(layer.name)}.{part}": t for part, t in layer.parts.items()}
    write_lora_file(path, tensors, LoraHeader(adapters, origin))


def load_lora(family: Family, path: Path, scale: float = 1.0) -> None:
    """Put the saved LoRA at ``path`` on the family's models, frozen, at ``scale`` of its strength.

    Raises:
        BaseModelError: the family holds a LoRA already, or this one does not fit it.
        MissingArtifactError: there is no such file, or it is not a LoRA this pipeline saved.
    """
    if has_lora(family):
        raise BaseModelError(f"{family.name} holds a LoRA already: take that off first")
    header, tensors = read_lora_file(path)
    try:
        _put_back(family, header, tensors)
    except ValueError as error:
        remove_lora(family)
        raise BaseModelError(
            f"{path} does not fit {family.name} ({family.revision}): it was trained on "
            f"{header.origin.get('base_model')} ({header.origin.get('base_revision')})"
        ) from error
    for model in adapted_models_of(family):
        for _, layer in lora_layers(model.model):
            layer.set_scale(ADAPTER, scale)
    draw_as_trained(family, header.origin)
    trained_on = header.origin.get("base_revision")
    if trained_on is not None and trained_on != family.revision:
        logger.warning(
            "%s was trained on %s (%s), and is used on %s (%s)",
            path.name, header.origin.get("base_model"), trained_on, family.name, family.revision,
        )  # fmt: skip


def _saved(name: str, layer: Any) -> _SavedLayer:
    """The layer as it acts: with what it started from taken off, where that is not zero."""
    parts = {part: weight.detach().float().cpu() for part, weight in weights_of(layer).items()}
    scale = float(layer.scaling[ADAPTER])
    if START in layer.lora_A:
        start = {p: w.detach().float().cpu() for p, w in weights_of(layer, START).items()}
        parts = {
            "lora_A.weight": torch.cat([parts["lora_A.weight"], start["lora_A.weight"]]),
            "lora_B.weight": torch.cat([parts["lora_B.weight"], -start["lora_B.weight"]], dim=1),
        }
    rank = parts["lora_A.weight"].shape[0]
    return _SavedLayer(name, parts, rank, scale * rank)


def _header(layers: list[_SavedLayer]) -> AdapterHeader:
    """The rank and alpha that most layers have, and the layers that have others."""
    usual, _ = Counter((layer.rank, layer.alpha) for layer in layers).most_common(1)[0]
    others = [layer for layer in layers if (layer.rank, layer.alpha) != usual]
    return AdapterHeader(
        rank=usual[0],
        alpha=usual[1],
        targets=tuple(layer.name for layer in layers),
        ranks={layer.name: layer.rank for layer in others},
        alphas={layer.name: layer.alpha for layer in others},
        dora="lora_magnitude_vector.weight" in layers[0].parts,
    )


def _put_back(family: Family, header: LoraHeader, tensors: Mapping[str, Tensor]) -> None:
    """Raises ``ValueError`` where the tensors are not those of layers that the family has."""
    models = {model.component: model for model in adapted_models_of(family)}
    for component, adapter in header.adapters.items():
        if component not in models:
            raise ValueError(f"there is no {component}")
        model = models[component]
        keys = {model.key(name): name for name, _ in model.model.named_modules()}
        own = _by_layer(model, tensors, keys)
        config = LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            target_modules=list(adapter.targets),
            rank_pattern={f"^{layer}": rank for layer, rank in adapter.ranks.items()},
            alpha_pattern={f"^{layer}": alpha for layer, alpha in adapter.alphas.items()},
            use_dora=adapter.dora,
        )
        inject(model.model, config, lora_dtype(family), tensors=own)
    lora = lora_weights(family)
    if {n: w.shape for n, w in zip(lora.names, lora.weights, strict=True)} != {
        name: tensor.shape for name, tensor in tensors.items()
    }:
        raise ValueError("other layers, or of other sizes")
    with torch.no_grad():
        for name, weight in zip(lora.names, lora.weights, strict=True):
            weight.copy_(tensors[name])
    for model in models.values():
        for _, layer in lora_layers(model.model):
            use(layer, (ADAPTER,), trained=None)


def _by_layer(
    model: AdaptedModel, tensors: Mapping[str, Tensor], keys: Mapping[str, str]
) -> dict[str, Tensor]:
    """The tensors of one model, by the names that it has for its layers itself."""
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{model.component}."):
            key, _, part = name.partition(".lora_")
            if key not in keys:
                raise ValueError(f"there is no {key}")
            own[f"{keys[key]}.lora_{part}"] = tensor
    return own
