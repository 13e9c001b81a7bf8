"""A fresh LoRA on a family's denoiser and text encoders (PEFT), and how it is taken off.

A layer with weight ``W`` becomes ``W x + scale B A x``. However the factors start, a fresh LoRA
changes nothing: where ``B A`` is not zero at first, a frozen second adapter takes the start off
again, so that the base's own weights are never touched. Source: LoRA, arXiv 2106.09685.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from nsync_pipeline.adaptation.config import LoraSettings, LoraStart, Targets
from nsync_pipeline.adaptation.dropout import DropoutRows, SampleDropout
from nsync_pipeline.adaptation.lycoris import lycoris_config, lycoris_weights, start_lycoris
from nsync_pipeline.adaptation.trained_weights import (
    AdaptedModel,
    TrainedWeights,
    adapted_models_of,
    clip_encoders_of,
    denoiser_of,
)
from nsync_pipeline.contrast.branch_copies import MIXED_ROWS
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family

ADAPTER = "default"
"""PEFT's name of the adapter that is trained, or loaded."""

START = "start"
"""PEFT's name of the frozen adapter that takes a start off which is not zero."""


def inject(
    model: nn.Module,
    config: Any,
    dtype: torch.dtype,
    adapter: str = ADAPTER,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Add layers where PEFT's ``config`` says, or exactly where ``tensors`` has factors.

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
    """The LoRA, LoKr or LoHa layers of ``model`` by name, in the order of their names."""
    kinds = (LoraLayer, LycorisLayer)
    found = {n: layer for n, layer in model.named_modules() if isinstance(layer, kinds)}
    yield from sorted(found.items())


def weights_of(layer: Any, adapter: str = ADAPTER) -> dict[str, nn.Parameter]:
    """The weights of one layer's adapter, by what a LoRA's file calls them."""
    if isinstance(layer, LycorisLayer):
        return lycoris_weights(layer, adapter)
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


@dataclass(frozen=True)
class Factors:
    """``B A``, of a flattened layer."""

    down: Tensor  # A (rank, in) float32
    up: Tensor  # B (out, rank) float32


FROM_WEIGHTS = ("pissa", "olora")
"""The starts where ``B A`` is not zero."""


def random_factors(
    start: LoraStart, outputs: int, inputs: int, rank: int, generator: torch.Generator
) -> Factors:
    """The factors of a start that does not look at the layer's weight: ``B A`` is zero."""
    if start == "orthogonal":
        rows, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator))
        down = torch.randn(inputs, rank // 2, generator=generator) @ rows[0::2] / 10.0
        up = torch.randn(outputs, rank // 2, generator=generator) @ rows[1::2] / 10.0
        return Factors(down.T.contiguous(), up)
    if start == "gaussian":
        down = torch.randn(rank, inputs, generator=generator) / rank
    else:
        bound = 1.0 / math.sqrt(inputs)
        down = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
    return Factors(down, torch.zeros(outputs, rank))


def factors_of(start: LoraStart, weight: Tensor, rank: int, scale: float) -> Factors:
    """The factors of ``pissa`` or ``olora``, of a layer's ``weight`` (out, in), float32.

    Raises:
        ValueError: the layer is too small for the rank.
    """
    outputs, inputs = weight.shape
    if rank > min(outputs, inputs):
        raise ValueError(f"it is {outputs} x {inputs}, too small to start rank {rank} by {start}")
    if start == "pissa":
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        root = (values[:rank] / scale).sqrt()
        return Factors(root[:, None] * right[:rank], left[:, :rank] * root)
    q, r = torch.linalg.qr(weight)
    return Factors(r[:rank].clone(), q[:, :rank].clone())


ATTENTION = (".q_proj", ".k_proj", ".v_proj", ".out_proj")
"""The endings of the names of CLIP's attention layers."""


def add_lora(family: Family, settings: LoraSettings, generator: torch.Generator) -> TrainedWeights:
    """Add a fresh, trainable LoRA, in float32 whatever the base's type (float64 for float64).

    What is random is drawn from the CPU ``generator``, layer by layer in the order of their names,
    the denoiser's first.

    Raises:
        TrainingError: no layer has such a name, or one that has cannot be adapted.
    """
    if family.quantization == "nf4" and settings.kind != "lora":
        raise TrainingError(
            f"training.lora.kind: {settings.kind} needs the shapes of the base's weights, which "
            "base_model.quantization nf4 does not keep: set it to int8 or fp8, or kind to lora"
        )
    if family.quantization is not None and (settings.dora or settings.start in FROM_WEIGHTS):
        what = "dora" if settings.dora else f"start {settings.start}"
        raise TrainingError(
            f"training.lora: {what} looks at the base's weights, which base_model.quantization "
            f"{family.quantization} has rounded: leave one of them out"
        )
    denoiser = denoiser_of(family)
    encoders = clip_encoders_of(family) if settings.text_encoder else ()
    if settings.text_encoder and not encoders:
        raise TrainingError(f"training.lora.text_encoder: {family.name} has no CLIP encoder")
    try:
        _put_on(family, denoiser, settings, settings.targets or family.lora_targets, "targets")
        for encoder in encoders:
            encoder.model.to(family.device)  # it may rest elsewhere, as long as it is frozen
            targets = settings.text_encoder_targets
            _put_on(family, encoder, settings, targets, "text_encoder_targets")
            _require_attention(encoder)
        _require_patterns_met(settings, (denoiser, *encoders))
        for model in (denoiser, *encoders):
            _start(model, settings, generator)
        if settings.dropout:
            _drop_inputs((denoiser, *encoders), settings.dropout)
    except TrainingError:
        remove_lora(family)
        raise
    return lora_weights(family)


def start_again(family: Family, settings: LoraSettings, generator: torch.Generator) -> None:
    """Set the trained factors to their start, in place, as ``add_lora`` draws them."""
    for model in adapted_models_of(family):
        _start(model, settings, generator)


def remove_lora(family: Family) -> None:
    """Take the LoRA off: the models are the base's again; nothing happens where there is none."""
    for adapted in adapted_models_of(family):
        model = adapted.model
        for name, layer in list(lora_layers(model)):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
        if hasattr(model, "peft_config"):
            del model.peft_config


def has_lora(family: Family) -> bool:
    return any(True for model in adapted_models_of(family) for _ in lora_layers(model.model))


def lora_weights(family: Family) -> TrainedWeights:
    """The weights of the LoRA that the family's models hold, named as in its file."""
    return TrainedWeights.of(
        (f"{model.key(name)}.{part}", weight, model.group)
        for model in adapted_models_of(family)
        for name, layer in lora_layers(model.model)
        for part, weight in weights_of(layer).items()
    )


def lora_dtype(family: Family) -> torch.dtype:
    return torch.float64 if family.dtype == torch.float64 else torch.float32


def _put_on(
    family: Family, model: AdaptedModel, settings: LoraSettings, targets: Targets, key: str
) -> None:
    """Put LoRA layers in ``model``."""
    common: dict[str, Any] = {
        "r": settings.rank,
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "rank_pattern": dict(settings.ranks),
        "alpha_pattern": dict(settings.alphas),
    }
    if settings.kind == "lora":
        config = LoraConfig(
            **common,
            lora_alpha=settings.alpha,
            use_rslora=settings.rank_stabilized,
            use_dora=settings.dora,
        )
    else:
        config = lycoris_config(settings.kind, settings.factor, **common, alpha=settings.alpha)
    try:
        inject(model.model, config, lora_dtype(family))
        if settings.start in FROM_WEIGHTS:
            inject(model.model, config, lora_dtype(family), START)
    except (ValueError, TypeError) as error:
        listed = targets if isinstance(targets, str) else ", ".join(targets)
        own = f"; null takes the family's own ({', '.join(family.lora_targets)})"
        raise TrainingError(
            f"training.lora.{key}: {listed}: the {model.component} of {family.name} cannot be "
            f"adapted there{own if model.group == 'denoiser' else ''}. PEFT says: {error}"
        ) from error


def _drop_inputs(models: Sequence[AdaptedModel], share: float) -> None:
    """Let the LoRA of every layer miss a share of its inputs; raises ``TrainingError``."""
    rows = DropoutRows()
    for model in models:
        for name, layer in lora_layers(model.model):
            if getattr(layer.get_base_layer(), MIXED_ROWS, False):
                raise TrainingError(
                    f"training.lora.dropout: {model.key(name)} is given all samples' tokens in a "
                    "row: leave it out of targets, or set dropout to 0"
                )
            layer.lora_dropout[ADAPTER] = SampleDropout(share, model.key(name), rows)


def _require_attention(encoder: AdaptedModel) -> None:
    """diffusers tells a text encoder's LoRA by its attention, and loads no other."""
    if not any(name.endswith(ATTENTION) for name, _ in lora_layers(encoder.model)):
        raise TrainingError(
            "training.lora.text_encoder_targets: diffusers could not load it: add one of "
            f"{', '.join(ending.removeprefix('.') for ending in ATTENTION)}"
        )


def _require_patterns_met(settings: LoraSettings, adapted: Sequence[AdaptedModel]) -> None:
    layers = [name for model in adapted for name, _ in lora_layers(model.model)]
    for key, patterns in (("ranks", settings.ranks), ("alphas", settings.alphas)):
        met = {get_pattern_key(list(patterns), layer) for layer in layers}
        unmet = [pattern for pattern in patterns if pattern not in met]
        if unmet:
            raise TrainingError(
                f"training.lora.{key}: {unmet[0]!r} is the end of no adapted layer's name, or "
                f"another pattern comes first; adapted are {len(layers)}, such as {layers[0]}"
            )


@torch.no_grad()
def _start(model: AdaptedModel, settings: LoraSettings, generator: torch.Generator) -> None:
    """Set the factors of every layer to their start."""
    for name, layer in lora_layers(model.model):
        if isinstance(layer, LycorisLayer):
            start_lycoris(layer, ADAPTER, generator)
            continue
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        rank, outputs = down.shape[0], up.shape[0]
        if settings.start in FROM_WEIGHTS:
            weight = layer.get_base_layer().weight.reshape(outputs, -1).float()
            try:
                found = factors_of(settings.start, weight, rank, float(layer.scaling[ADAPTER]))
            except ValueError as error:
                raise TrainingError(f"training.lora.start: {model.key(name)}: {error}") from error
        else:
            found = random_factors(settings.start, outputs, down[0].numel(), rank, generator)
        down.copy_(found.down.view(down.shape))
        up.copy_(found.up.view(up.shape))
        if settings.start in FROM_WEIGHTS:  # the second adapter takes it off
            layer.lora_A[START].weight.copy_(down)
            layer.lora_B[START].weight.copy_(up)
            use(layer, (ADAPTER, START), trained=ADAPTER)
            layer.set_scale(START, -1.0)  # times the same alpha / rank
