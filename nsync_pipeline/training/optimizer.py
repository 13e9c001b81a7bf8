"""AdamW over the LoRA's factors, and its state as plain tensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nsync_pipeline.errors import TrainingError
from nsync_pipeline.training.config import TrainingConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


def adamw(weights: Sequence[nn.Parameter], settings: TrainingConfig) -> torch.optim.AdamW:
    """AdamW on ``weights``; only what is trained is decayed. The rate is set at every step."""
    return torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def take_step(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    gradient: Sequence[Tensor],
    learning_rate: float,
) -> None:
    """One optimizer step along ``gradient``."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    for weight, part in zip(weights, gradient, strict=True):
        weight.grad = part.contiguous()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def state_tensors(
    optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter]
) -> dict[str, Tensor]:
    """The weights and AdamW's moments, copied to the CPU, by name and place."""
    tensors = {}
    for index, weight in enumerate(weights):
        tensors[f"weight.{index}"] = weight.detach().to("cpu", copy=True)
        for moment in MOMENTS:
            tensors[f"{moment}.{index}"] = optimizer.state[weight][moment].to("cpu", copy=True)
    return tensors


def restore(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    tensors: Mapping[str, Tensor],
    steps: int,
) -> None:
    """Set the weights and the optimizer to what they were after ``steps`` optimizer steps.

    Raises:
        TrainingError: the tensors are not those of these weights.
    """
    wanted = {f"weight.{i}": weight.shape for i, weight in enumerate(weights)}
    if {k: t.shape for k, t in tensors.items() if k.startswith("weight.")} != wanted:
        raise TrainingError("a checkpoint of these inputs does not fit the model's LoRA")
    state = {}
    with torch.no_grad():
        for index, weight in enumerate(weights):
            weight.copy_(tensors[f"weight.{index}"])
            moments = {moment: tensors[f"{moment}.{index}"].clone() for moment in MOMENTS}
            state[index] = {"step": torch.tensor(float(steps)), **moments}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
