"""A frozen LoRA beneath the one that is trained: there while the other learns, and never shipped.

With ``W`` a layer's weight, ``F`` what the first LoRA came to and ``S`` the second, the layer is
``W + F + S`` while ``in_use`` is open and ``W + S`` at any other time: when held-out losses are
taken, when pictures are drawn, and in the file that is saved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import (
    ADAPTER,
    inject,
    lora_dtype,
    lora_layers,
    start_again,
    use,
    weights_of,
)
from nsync_pipeline.adaptation.trained_weights import adapted_models_of
from nsync_pipeline.families.family import Family

BENEATH = "beneath"
"""PEFT's name of the frozen adapter."""


def lay_beneath(family: Family, settings: LoraSettings, generator: torch.Generator) -> None:
    """Freeze what the family's LoRA came to, and start it again on top, as ``add_lora`` would.

    The trained weights are the same parameters as before, at their start.
    """
    for model in (adapted.model for adapted in adapted_models_of(family)):
        if not any(True for _ in lora_layers(model)):
            continue
        configs: Any = model.peft_config
        inject(model, configs[ADAPTER], lora_dtype(family), BENEATH)
        for _, layer in lora_layers(model):
            of_first = weights_of(layer)
            with torch.no_grad():
                for name, weight in weights_of(layer, BENEATH).items():
                    weight.copy_(of_first[name])
    start_again(family, settings, generator)
    _use(family, (ADAPTER,))


@contextmanager
def in_use(family: Family) -> Iterator[None]:
    """While it is open, the frozen LoRA acts, too."""
    _use(family, (ADAPTER, BENEATH))
    try:
        yield
    finally:
        _use(family, (ADAPTER,))


def _use(family: Family, adapters: tuple[str, ...]) -> None:
    for adapted in adapted_models_of(family):
        for _, layer in lora_layers(adapted.model):
            use(layer, adapters, trained=ADAPTER)
