"""LoKr and LoHa: other products than ``B A`` in the place of a LoRA's, through PEFT.

- LoKr: ``W x + scale (w1 (x) w2) x``, a Kronecker product; a side of n is cut into two whole
  numbers whose product it is. Where the rank is less than half of the larger side of ``w2``, that
  is a product of two factors itself.
- LoHa: ``W x + scale ((w1_a w1_b) * (w2_a w2_b)) x``, multiplied number by number: of rank r^2.

Source: LyCORIS (arXiv 2309.14859), FedPara (arXiv 2108.06098).
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig
from peft.tuners.lycoris_utils import LycorisLayer
from torch import Tensor, nn

from nsync_pipeline.adaptation.config import AdapterKind

ZERO_AT_FIRST = ("lokr_w2", "lokr_w2_b", "hada_w2_b")
"""The factor that makes a fresh one zero: as LyCORIS starts a LoKr, and PEFT a LoHa."""

MARKS: Mapping[AdapterKind, str] = {"lora": ".lora_", "lokr": ".lokr_", "loha": ".hada_"}
"""What follows a layer's name in the keys of a file."""


def kind_of(keys: Mapping[str, Any]) -> AdapterKind:
    """The kind of adapter that has these keys."""
    return next((k for k, mark in MARKS.items() if any(mark in key for key in keys)), "lora")


def lycoris_config(kind: AdapterKind, factor: int | None, **settings: Any) -> Any:
    """PEFT's, from ``rank``, ``alpha`` and its other settings."""
    if kind == "loha":
        return LoHaConfig(**settings)
    return LoKrConfig(**settings, decompose_factor=-1 if factor is None else factor)


def lycoris_weights(layer: LycorisLayer, adapter: str) -> dict[str, nn.Parameter]:
    """The factors of one layer's adapter, by what a file calls them; the product is of them all."""
    parts = {name: getattr(layer, name) for name in layer.adapter_layer_names}
    return {name: part[adapter] for name, part in parts.items() if adapter in part}


@torch.no_grad()
def start_lycoris(layer: LycorisLayer, adapter: str, generator: torch.Generator) -> None:
    """Factors uniform in 1 / sqrt(their columns), but for the one that makes it zero."""
    for name, weight in lycoris_weights(layer, adapter).items():
        if name in ZERO_AT_FIRST:
            weight.zero_()
            continue
        bound = weight[0].numel() ** -0.5
        drawn: Tensor = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
        weight.copy_(drawn)
