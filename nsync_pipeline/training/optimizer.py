"""The optimizer over what is trained, and its state as plain tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nsync_pipeline.adaptation.trained_weights import TrainedWeights, WeightGroup
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.learning_rate import peak_rates


def make_optimizer(trained: TrainedWeights, settings: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW on what is trained and nothing else, a group of weights each with its own rate.

    The LoRA is decayed towards the base; a token vector is not: zero means nothing to it.

    Raises:
        TrainingError: the optimizer asked for is not installed.
    """
    rates = peak_rates(settings)
    groups: list[dict[str, Any]] = [
        {
            "params": [w for w, of in zip(trained.weights, trained.groups, strict=True) if of == g],
            "group": g,
            "lr": rates[g],
            "weight_decay": 0.0 if g == "embedding" else settings.weight_decay,
        }
        for g in dict.fromkeys(trained.groups)
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise TrainingError(
            f"training.optimizer: {settings.optimizer} needs bitsandbytes, which is not installed "
            f"or does not work here ({error}): `pip install bitsandbytes`, or set it to adamw"
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(groups)
    return optimizer


def take_step(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    gradient: Sequence[Tensor],
    rates: Mapping[WeightGroup, float],
) -> None:
    """One optimizer step along ``gradient``."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["group"]]
    for weight, part in zip(weights, gradient, strict=True):
        weight.grad = part.contiguous()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def optimizer_metric(
    optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter]
) -> tuple[Tensor, ...] | None:
    """``1 / (sqrt(v / (1 - beta2^t)) + eps)`` of AdamW's second moment ``v`` after ``t`` steps.

    None before the first step. It is what AdamW multiplies a gradient's numbers by.
    """
    if not optimizer.state:
        return None
    _, beta2 = optimizer.defaults["betas"]
    metric = []
    for weight in weights:
        state = optimizer.state[weight]
        unbiased = state["exp_avg_sq"] / (1.0 - beta2 ** float(state["step"]))
        metric.append(1.0 / (unbiased.sqrt() + optimizer.defaults["eps"]))
    return tuple(metric)


def state_tensors(
    optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state, copied to the CPU: ``<place of the weight>.<name>``."""
    return {
        f"{index}.{name}": torch.as_tensor(value).to("cpu", copy=True)
        for index, weight in enumerate(weights)
        for name, value in sorted(optimizer.state[weight].items())
    }


def restore(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Set the optimizer's state to what ``state_tensors`` gave."""
    place_of = {id(weight): place for place, weight in enumerate(weights)}
    in_order = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {index: {} for index in range(len(in_order))}
    for index, weight in enumerate(in_order):
        prefix = f"{place_of[id(weight)]}."
        for key, tensor in tensors.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                # bitsandbytes counts its steps in a plain number.
                whole = name == "step" and not tensor.is_floating_point()
                state[index][name] = int(tensor) if whole else tensor.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
