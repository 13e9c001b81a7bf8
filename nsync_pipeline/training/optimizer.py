"""The optimizer over what is trained, and its state as plain tensors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import optimization
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from nsync_pipeline.adaptation.trained_weights import TrainedWeights, WeightGroup
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.training.config import TrainingConfig


def learning_rates(settings: TrainingConfig, step: int) -> dict[WeightGroup, float]:
    """The learning rate of each group of weights at optimizer step ``step`` (from 0 on)."""
    share, usual = schedule_share(settings, step), settings.learning_rate
    return {
        "denoiser": usual * share,
        "text_encoder": (settings.text_encoder_learning_rate or usual) * share,
        "embedding": (settings.embedding_learning_rate or usual) * share,
    }


def schedule_share(settings: TrainingConfig, step: int) -> float:
    """The share of its peak, in [0, 1], that a rate has at optimizer step ``step`` (from 0 on).

    It rises linearly over ``warmup_steps`` and is above 0 from the first step on (diffusers' own
    warm-up spends its first step at a rate of 0), then follows diffusers' schedule.
    """
    warmup, steps = settings.warmup_steps, settings.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    # A scheduler is built around an optimizer; only its function is of use here.
    carrier = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler: LambdaLR
    match settings.schedule:
        case "constant":
            scheduler = optimization.get_constant_schedule(carrier)
        case "linear":
            scheduler = optimization.get_linear_schedule_with_warmup(carrier, warmup, steps)
        case "cosine":
            scheduler = optimization.get_cosine_schedule_with_warmup(carrier, warmup, steps)
        case "cosine_with_restarts":
            scheduler = optimization.get_cosine_with_hard_restarts_schedule_with_warmup(
                carrier, warmup, steps, num_cycles=settings.schedule_cycles
            )
        case "polynomial":
            scheduler = optimization.get_polynomial_decay_schedule_with_warmup(
                carrier, warmup, steps, lr_end=0.0, power=settings.schedule_power
            )
    return float(scheduler.lr_lambdas[0](step))


def make_optimizer(trained: TrainedWeights, settings: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer on what is trained and nothing else, a group of weights each with its own rate.

    With LoRA+ (arXiv 2402.12354) every ``B`` has ``lora.rate_ratio`` times the rate of its ``A``.
    The LoRA is decayed towards the base; a token vector, unless it is asked for, is not: zero
    means nothing to it.

    Raises:
        TrainingError: the optimizer asked for is not installed.
    """
    ratio = 1.0 if settings.lora is None else settings.lora.rate_ratio
    ratios = [ratio if name.endswith("lora_B.weight") else 1.0 for name in trained.names]
    alike = list(zip(trained.groups, ratios, strict=True))
    groups: list[dict[str, Any]] = [
        {
            "params": [w for w, own in zip(trained.weights, alike, strict=True) if own == of],
            "group": of[0],
            "rate_ratio": of[1],
            "weight_decay": (
                settings.embedding_weight_decay if of[0] == "embedding" else settings.weight_decay
            ),
        }
        for of in dict.fromkeys(alike)
    ]
    name = settings.optimizer
    own: dict[str, Any] = {}
    if settings.optimizer_betas is not None:
        own["betas"] = settings.optimizer_betas
    if settings.optimizer_eps is not None:
        own["eps"] = settings.optimizer_eps
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True, **own)
    if name == "adafactor":
        return torch.optim.Adafactor(groups)
    package, extra = OPTIMIZER_PACKAGES[name]
    try:
        optimizer: Any
        if name == "adamw_8bit":
            from bitsandbytes.optim import AdamW8bit

            optimizer = AdamW8bit(groups, **own)
        elif name == "prodigy":
            from prodigyopt import Prodigy

            optimizer = Prodigy(groups, use_bias_correction=True, safeguard_warmup=True, **own)
        else:
            from schedulefree import AdamWScheduleFree

            optimizer = AdamWScheduleFree(groups, **own)
            optimizer.train()
    except ImportError as error:
        raise TrainingError(
            f"training.optimizer: {name} needs {package}, which is not installed or does not work "
            f"here ({error}): `pip install {extra}`, or set it to adamw"
        ) from error
    found: torch.optim.Optimizer = optimizer
    return found


OPTIMIZER_PACKAGES = {
    "adamw_8bit": ("bitsandbytes", "bitsandbytes"),
    "prodigy": ("prodigyopt", "'nsync-pipeline[optimizers]'"),
    "adamw_schedule_free": ("schedulefree", "'nsync-pipeline[optimizers]'"),
}


@contextmanager
def to_save(optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """While it is open, the weights are those to use: with schedule-free, their average.

    Afterwards they are to the bit what they were, which schedule-free's own way back is not.
    """
    if not hasattr(optimizer, "train") or not optimizer.state:
        yield
        return
    own: Any = optimizer
    before = [weight.detach().clone() for weight in weights]
    own.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(weights), before)
        for group in optimizer.param_groups:
            group["train_mode"] = True


def take_step(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    gradient: Sequence[Tensor],
    rates: Mapping[WeightGroup, float],
) -> None:
    """One optimizer step along ``gradient``."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["group"]] * group["rate_ratio"]
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


GROUP = "group"
GROUP_NUMBERS = ("d", "d_denom", "d_hat", "d_max", "d_numerator", "k", "lr_max", "weight_sum")
"""What Prodigy and schedule-free AdamW keep of a group of weights between steps."""


def state_tensors(
    optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state, where it is: ``<place of the weight>.<name>``.

    And ``group<number>.<name>``, of optimizers that keep numbers of a group.
    """
    of_weights = {
        f"{index}.{name}": torch.as_tensor(value)
        for index, weight in enumerate(weights)
        for name, value in sorted(optimizer.state[weight].items())
    }
    of_groups = {
        f"{GROUP}{number}.{name}": torch.tensor(group[name])
        if isinstance(group[name], int)
        else torch.tensor(float(group[name]), dtype=torch.float64)
        for number, group in enumerate(optimizer.param_groups)
        for name in GROUP_NUMBERS
        if name in group
    }
    return of_weights | of_groups


def restore(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Set the optimizer's state to what ``state_tensors`` gave."""
    in_order = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    place_of = {index: place for place, index in enumerate(in_order)}
    state: dict[int, dict[str, Any]] = {place: {} for place in range(len(in_order))}
    groups = optimizer.state_dict()["param_groups"]
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        if index.startswith(GROUP):
            groups[int(index.removeprefix(GROUP))][name] = tensor.item()
            continue
        # bitsandbytes and Prodigy count their steps in a plain number.
        whole = name == "step" and not tensor.is_floating_point()
        own = state[place_of[id(weights[int(index)])]]
        own[name] = int(tensor) if whole else tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": groups})


GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the scale grows."""

FLOOR = 1.0
"""What still overflows at this scale is not due to the scale."""


@dataclass(frozen=True)
class LossScale:
    """What losses are multiplied by on the way back, by the rules of ``torch.amp.GradScaler``.

    One scale for all branches: each branch's gradient is that of the same loss, and an overflow in
    one of them makes the step of all of them void.
    """

    value: float = 2.0**16
    steps: int = 0  # without an overflow, since the scale changed

    def after_step(self) -> "LossScale":
        """The scale after a step whose gradients were all finite."""
        if self.steps + 1 == GROWTH_INTERVAL:
            return LossScale(self.value * 2.0)
        return LossScale(self.value, self.steps + 1)

    def after_overflow(self) -> "LossScale | None":
        """The scale to try the same step at; None where it is at its floor."""
        return LossScale(max(FLOOR, self.value / 2.0)) if self.value > FLOOR else None
