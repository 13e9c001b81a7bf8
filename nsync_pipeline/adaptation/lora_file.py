"""The LoRA's file: safetensors with diffusers' keys and adapter metadata, and our own beside it.

Keys are ``<component>.<layer>.lora_A.weight``, ``.lora_B.weight`` and, for DoRA,
``.lora_magnitude_vector.weight``, as ``save_lora_weights`` of diffusers' pipelines writes them;
``load_lora_weights`` reads ranks, alphas and targets from ``lora_adapter_metadata``. The scale of a
layer is its alpha / rank, whatever the training's settings said.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nsync_pipeline.adaptation.safetensors_file import (
    not_ours,
    read_safetensors,
    write_safetensors,
)

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
    dora: bool

    def scale(self, layer: str) -> float:
        """What ``B A`` of ``layer``, one of ``targets``, is multiplied by."""
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
                for key, value in _to_peft(component, adapter).items()
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
        settings: dict[str, Any] = json.loads(file.metadata[DIFFUSERS_METADATA])
        components = dict.fromkeys(key.split(".", 1)[0] for key in file.tensors)
        adapters = {component: _from_peft(settings, component) for component in components}
        header = LoraHeader(adapters, json.loads(file.metadata[OWN_METADATA]))
    except (KeyError, ValueError, TypeError) as error:
        raise not_ours(path, error) from error
    return header, file.tensors


def _to_peft(component: str, adapter: AdapterHeader) -> dict[str, object]:
    """As ``peft.LoraConfig`` takes them, which is what diffusers makes of them.

    A pattern's ``^`` keeps it from layers whose names only end in this one's. Text encoders do
    without: their names have a prefix in older versions of transformers.
    """
    start = "" if component.startswith("text_encoder") else "^"
    return {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "target_modules": sorted(adapter.targets),
        "rank_pattern": {f"{start}{layer}": rank for layer, rank in adapter.ranks.items()},
        "alpha_pattern": {f"{start}{layer}": alpha for layer, alpha in adapter.alphas.items()},
        "use_dora": adapter.dora,
    }


def _from_peft(settings: Mapping[str, Any], component: str) -> AdapterHeader:
    ranks, alphas = (
        {
            pattern.removeprefix("^"): value
            for pattern, value in settings[f"{component}.{key}"].items()
        }
        for key in ("rank_pattern", "alpha_pattern")
    )
    return AdapterHeader(
        rank=settings[f"{component}.r"],
        alpha=settings[f"{component}.lora_alpha"],
        targets=tuple(settings[f"{component}.target_modules"]),
        ranks=ranks,
        alphas=alphas,
        dora=settings[f"{component}.use_dora"],
    )
