"""How far what is trained acts: at a strength, on a part of each batch, or not at all.

All of it holds while a context is open; afterwards the family is as it was. It is used on what is
loaded and frozen, and on what is being trained, whose gradients it leaves alone.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nsync_pipeline.adaptation.lora import START, has_lora, lora_layers
from nsync_pipeline.adaptation.textual_inversion import has_token_vectors, without_token_vectors
from nsync_pipeline.adaptation.trained_weights import adapted_models_of, clip_encoders_of
from nsync_pipeline.families.family import Family


def has_trained(family: Family) -> bool:
    """Whether the family holds a LoRA or token vectors."""
    return has_lora(family) or has_token_vectors(family)


def changes_prompts(family: Family) -> bool:
    """Whether what is trained takes part in encoding prompts."""
    encoders = clip_encoders_of(family)
    return has_token_vectors(family) or any(
        True for encoder in encoders for _ in lora_layers(encoder.model)
    )


@contextmanager
def at_strength(family: Family, strength: float) -> Iterator[None]:
    """Let the family's LoRA act at ``strength``: 1 as trained, 0 not at all.

    The low-rank part is multiplied by it. Of a DoRA, the trained lengths stay as they are at any
    strength but 0. Token vectors have no strength: they act wherever a prompt has them.
    """
    if strength == 1.0:
        yield
        return
    models = [adapted.model for adapted in adapted_models_of(family)]
    layers = [layer for model in models for _, layer in lora_layers(model)]
    before = [dict(layer.scaling) for layer in layers]
    with ExitStack() as off:
        if strength == 0.0:
            for model in models:
                off.enter_context(base_first(model, 1, of=1))
        try:
            for layer in layers:
                for adapter in layer.active_adapters:  # the start's is taken off
                    layer.set_scale(adapter, -strength if adapter == START else strength)
            yield
        finally:
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling.update(scaling)


@contextmanager
def base_first(model: nn.Module, parts: int, of: int) -> Iterator[None]:
    """Compute the first ``parts`` of the ``of`` equal parts of every batch without the LoRA.

    The parts of a batch lie one behind the other. What has no LoRA is computed for all of them at
    once, so that a model with and without its LoRA takes one pass.
    """
    layers = [layer for _, layer in lora_layers(model)] if parts else []
    if not layers:
        yield
        return
    hidden = [layer.__dict__.get("forward") for layer in layers]  # a copy a branch may be in use
    try:
        for layer in layers:
            # Past nn.Module.__setattr__: this hides the class's own forward.
            layer.__dict__["forward"] = partial(_base_first, layer, parts, of)
        # A model compiled by torch would be compiled again, for the layers' new forwards.
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for layer, forward in zip(layers, hidden, strict=True):
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.__dict__["forward"] = forward


def _base_first(layer: Any, parts: int, of: int, x: Tensor, *further: Any, **named: Any) -> Tensor:
    rows, odd = divmod(len(x) * parts, of)
    assert not odd, f"{len(x)} rows are not {of} equal parts"
    base: Tensor = layer.base_layer(x[:rows], *further, **named)
    if rows == len(x):
        return base
    adapted: Tensor = type(layer).forward(layer, x[rows:], *further, **named)
    return torch.cat([base, adapted]) if rows else adapted


@contextmanager
def as_base(family: Family) -> Iterator[None]:
    """The frozen base: no LoRA in any of its models, and no token vectors.

    The word of token vectors is then read as ordinary text.
    """
    with ExitStack() as off:
        for adapted in adapted_models_of(family):
            off.enter_context(base_first(adapted.model, 1, of=1))
        off.enter_context(without_token_vectors(family))
        yield
