"""The LoRA's file: safetensors with diffusers' keys and adapter metadata, and our own beside it.

Keys are ``<component>.<layer>.lora_A.weight``, ``.lora_B.weight`` and, for DoRA,
``.lora_magnitude_vector.weight``, as ``save_lora_weights`` of diffusers' pipelines writes them;
``load_lora_weights`` reads ranks, alphas and targets from ``lora_adapter_metadata``. The scale of a
layer is its alpha / rank, whatever the training's settings said. A LoKr and a LoHa have PEFT's own
keys (``.lokr_w1``, ``.hada_w1_a`` ...).
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from nsync_pipeline.adaptation.config import AdapterKind
from nsync_pipeline.adaptation.lora import (
    ADAPTER,
    START,
    has_lora,
    inject,
    lora_dtype,
    lora_layers,
    lora_weights,
    remove_lora,
    use,
    weights_of,
)
from nsync_pipeline.adaptation.lycoris import MARKS, kind_of, lycoris_config
from nsync_pipeline.adaptation.safetensors_file import not_ours, read_safetensors, write_safetensors
from nsync_pipeline.adaptation.trained_weights import AdaptedModel, adapted_models_of
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.noise_schedules import draw_as_trained
from nsync_pipeline.files import parse_json

logger = logging.getLogger(__name__)

DIFFUSERS_METADATA = "lora_adapter_metadata"
OWN_METADATA = "nsync"


@dataclass(frozen=True)
class AdapterHeader:
    """The adapter of one model: PEFT's settings, layer by layer where they differ."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # names of the adapted layers
    ranks: Mapping[str, int]  # of the layers that have another one
    alphas: Mapping[str, float]  # the same
    dora: bool = False
    kind: AdapterKind = "lora"
    factor: int | None = None  # of LoKr, where it is not near the square root

    def scale(self, layer: str) -> float:
        """What the product of ``layer``, one of ``targets``, is multiplied by."""
        return self.alphas.get(layer, self.alpha) / self.ranks.get(layer, self.rank)


@dataclass(frozen=True)
class LoraHeader:
    """What a LoRA's file says besides its weights."""

    adapters: Mapping[str, AdapterHeader]  # by component: unet, transformer, text_encoder, ...
    origin: Mapping[str, str]  # base_model, base_revision, placeholder, update_rule, ...


def write_lora_file(path: Path, tensors: Mapping[str, Tensor], header: LoraHeader) -> None:
    """Write the file, whole or not at all; ``tensors`` are float32, keyed as in the file."""
    metadata = {
        "format": "pt",
        DIFFUSERS_METADATA: json.dumps(
            {
                f"{component}.{key}": value
                for component, adapter in header.adapters.items()
                # Text encoders' names have a prefix in older versions of transformers.
                for key, value in _to_peft(
                    adapter, "" if component.startswith("text_encoder") else "^"
                ).items()
            },
            sort_keys=True,
        ),
        OWN_METADATA: json.dumps(dict(header.origin), sort_keys=True),
    }
    write_safetensors(path, tensors, metadata)


def read_lora_file(path: Path) -> tuple[LoraHeader, dict[str, Tensor]]:
    """What ``write_lora_file`` wrote.

    Raises:
        MissingArtifactError: there is no such file, or it is not a LoRA this pipeline saved.
    """
    file = read_safetensors(path)
    try:
        settings: dict[str, Any] = parse_json(file.metadata[DIFFUSERS_METADATA])
        kind = kind_of(file.tensors)
        adapters = {
            component: _from_peft(
                kind, {k.partition(".")[2]: v for k, v in settings.items() if k.startswith(start)}
            )
            for component in dict.fromkeys(key.split(".", 1)[0] for key in file.tensors)
            for start in (f"{component}.",)
        }
        header = LoraHeader(adapters, parse_json(file.metadata[OWN_METADATA]))
    except (KeyError, ValueError, TypeError) as error:
        raise not_ours(path, error) from error
    return header, file.tensors


def _to_peft(adapter: AdapterHeader, start: str) -> dict[str, Any]:
    """As ``peft.LoraConfig`` takes them, which is what diffusers makes of them.

    A pattern's ``start``, ``^``, keeps it from layers whose names only end in this one's.
    """
    patterns: dict[str, Any] = {
        "r": adapter.rank,
        "target_modules": sorted(adapter.targets),
        "rank_pattern": {f"{start}{layer}": rank for layer, rank in adapter.ranks.items()},
        "alpha_pattern": {f"{start}{layer}": alpha for layer, alpha in adapter.alphas.items()},
    }
    if adapter.kind == "lora":
        return patterns | {"lora_alpha": adapter.alpha, "use_dora": adapter.dora}
    factor = {"decompose_factor": adapter.factor} if adapter.factor is not None else {}
    return patterns | {"alpha": adapter.alpha} | factor


def _from_peft(kind: AdapterKind, settings: Mapping[str, Any]) -> AdapterHeader:
    return AdapterHeader(
        rank=settings["r"],
        alpha=settings["lora_alpha" if kind == "lora" else "alpha"],
        targets=tuple(settings["target_modules"]),
        ranks=_by_name(settings["rank_pattern"]),
        alphas=_by_name(settings["alpha_pattern"]),
        dora=settings["use_dora"] if kind == "lora" else False,
        kind=kind,
        factor=settings.get("decompose_factor"),
    )


def _by_name(patterns: Mapping[str, Any]) -> dict[str, Any]:
    return {pattern.removeprefix("^"): value for pattern, value in patterns.items()}


def save_lora(family: Family, path: Path, origin: Mapping[str, str]) -> None:
    """Save the LoRA to ``path``, loadable by ``load_lora`` and by diffusers.

    The same weights, settings and origin always give the same bytes. ``origin`` says where the LoRA
    comes from (base model, rule, data) and is kept in the file's header.
    """
    tensors: dict[str, Tensor] = {}
    adapters: dict[str, AdapterHeader] = {}
    for model in adapted_models_of(family):
        sizes: dict[str, tuple[int, float]] = {}  # rank and alpha of each layer
        for name, layer in lora_layers(model.model):
            parts = _as_it_acts(layer)
            first = parts.get("lora_A.weight")
            rank = layer.r[ADAPTER] if first is None else first.shape[0]
            sizes[name] = (rank, float(layer.scaling[ADAPTER]) * rank)
            tensors |= {f"{model.key(name)}.{part}": tensor for part, tensor in parts.items()}
        if sizes:
            config: Any = model.model.peft_config[ADAPTER]  # type: ignore[index]
            factor = getattr(config, "decompose_factor", -1)
            adapters[model.component] = replace(
                _header(sizes),
                dora="lora_magnitude_vector.weight" in parts,
                kind=kind_of({f".{part}": None for part in parts}),
                factor=None if factor == -1 else factor,
            )
    write_lora_file(path, tensors, LoraHeader(adapters, origin))


def load_lora(family: Family, path: Path) -> None:
    """Put the saved LoRA at ``path`` on the family's models, frozen.

    Raises:
        BaseModelError: the family holds a LoRA already, or this one does not fit it.
        MissingArtifactError: there is no such file, or it is not a LoRA this pipeline saved.
    """
    if has_lora(family):
        raise BaseModelError(f"{family.name} holds a LoRA already: take that off first")
    header, tensors = read_lora_file(path)
    try:
        put_back(family, header, tensors)
    except ValueError as error:
        remove_lora(family)
        raise BaseModelError(
            f"{path} does not fit {family.name} ({family.revision}): it was trained on "
            f"{header.origin.get('base_model')} ({header.origin.get('base_revision')})"
        ) from error
    draw_as_trained(family, header.origin)
    trained_on = header.origin.get("base_revision")
    if trained_on is not None and trained_on != family.revision:
        logger.warning(
            "%s was trained on %s (%s), and is used on %s (%s)",
            path.name, header.origin.get("base_model"), trained_on, family.name, family.revision,
        )  # fmt: skip


def _as_it_acts(layer: Any) -> dict[str, Tensor]:
    """A layer's weights, float32: with its start taken off, where that is not zero."""
    parts = {part: weight.detach().float().cpu() for part, weight in weights_of(layer).items()}
    if START in getattr(layer, "lora_A", ()):
        start = {p: w.detach().float().cpu() for p, w in weights_of(layer, START).items()}
        return {
            "lora_A.weight": torch.cat([parts["lora_A.weight"], start["lora_A.weight"]]),
            "lora_B.weight": torch.cat([parts["lora_B.weight"], -start["lora_B.weight"]], dim=1),
        }
    return parts


def _header(sizes: Mapping[str, tuple[int, float]]) -> AdapterHeader:
    """The rank and alpha that most layers have, and the layers that have others."""
    usual, _ = Counter(sizes.values()).most_common(1)[0]
    others = {name: size for name, size in sizes.items() if size != usual}
    ranks = {name: rank for name, (rank, _) in others.items()}
    alphas = {name: alpha for name, (_, alpha) in others.items()}
    return AdapterHeader(*usual, tuple(sizes), ranks, alphas)


def put_back(family: Family, header: LoraHeader, tensors: Mapping[str, Tensor]) -> None:
    """Put what a file holds on the family's models, frozen.

    Raises:
        ValueError: the tensors are not those of layers that the family has.
    """
    models = {model.component: model for model in adapted_models_of(family)}
    for component, adapter in header.adapters.items():
        if component not in models:
            raise ValueError(f"there is no {component}")
        model = models[component]
        keys = {model.key(name): name for name, _ in model.model.named_modules()}
        own = _by_layer(model, tensors, keys, MARKS[adapter.kind])
        settings = _to_peft(adapter, "^")
        config: Any
        if adapter.kind == "lora":
            config = LoraConfig(**settings)
        else:
            factor = settings.pop("decompose_factor", None)
            config = lycoris_config(adapter.kind, factor, **settings)
        inject(model.model, config, lora_dtype(family), tensors=own)
    lora = lora_weights(family)
    weights = dict(zip(lora.names, lora.weights, strict=True))
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if {name: weight.shape for name, weight in weights.items()} != shapes:
        raise ValueError("other layers, or of other sizes")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[name])
    for model in models.values():
        for _, layer in lora_layers(model.model):
            use(layer, (ADAPTER,), trained=None)


def _by_layer(
    model: AdaptedModel, tensors: Mapping[str, Tensor], keys: Mapping[str, str], mark: str
) -> dict[str, Tensor]:
    """The tensors of one model, by the names that it has for its layers itself."""
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{model.component}."):
            key, _, part = name.partition(mark)
            if key not in keys:
                raise ValueError(f"there is no {key}")
            own[f"{keys[key]}{mark}{part}"] = tensor
    return own
