"""PEFT's LoRA layers of one model: put in, found, taken out."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

ADAPTER = "default"
"""PEFT's name of the adapter that is trained, or loaded."""

START = "start"
"""PEFT's name of the frozen adapter that takes a start off which is not zero."""


def inject(
    model: nn.Module,
    config: LoraConfig,
    dtype: torch.dtype,
    adapter: str = ADAPTER,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Add LoRA layers where ``config`` says, or exactly where ``tensors`` has factors.

    Raises:
        ValueError: there is no such layer, or one cannot be adapted.
    """
    # PEFT draws initial weights from the global generator; they are replaced, so leave it alone.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # A second adapter is meant. A pattern may be for another of the family's models: whether it
        # is for one at all is checked over all of them.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")
        inject_adapter_in_model(
            config, model, adapter, state_dict=None if tensors is None else dict(tensors)
        )
    for _, layer in lora_layers(model):
        for weight in weights_of(layer, adapter).values():
            weight.data = weight.data.to(dtype)


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The LoRA layers of ``model`` by name, in the order of their names."""
    found = {n: layer for n, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    yield from sorted(found.items())


def weights_of(layer: Any, adapter: str = ADAPTER) -> dict[str, nn.Parameter]:
    """The weights of one layer's adapter, by what a LoRA's file calls them."""
    weights = {
        "lora_A.weight": layer.lora_A[adapter].weight,
        "lora_B.weight": layer.lora_B[adapter].weight,
    }
    if adapter in layer.lora_magnitude_vector:
        weights["lora_magnitude_vector.weight"] = layer.lora_magnitude_vector[adapter].weight
    return weights


def use(layer: Any, adapters: Sequence[str], trained: str | None) -> None:
    """Let ``layer`` compute with ``adapters``, of which only ``trained`` has gradients."""
    layer.set_adapter(list(adapters))
    for adapter in adapters:
        for weight in weights_of(layer, adapter).values():
            weight.requires_grad_(adapter == trained)


def take_out(model: nn.Module) -> None:
    """Put the layers that were adapted back in their places; nothing where there are none."""
    for name, layer in list(lora_layers(model)):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
