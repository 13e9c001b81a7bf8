"""The learning rate of each step: a pure function, so nothing of it needs to be kept."""

from collections.abc import Callable

import torch
from diffusers import optimization
from torch.optim.lr_scheduler import LambdaLR

from nsync_pipeline.adaptation.trained_weights import WeightGroup
from nsync_pipeline.training.config import TrainingConfig


def learning_rates(settings: TrainingConfig, step: int) -> dict[WeightGroup, float]:
    """The learning rate of each group of weights at optimizer step ``step`` (from 0 on)."""
    share = schedule_share(settings, step)
    return {group: peak * share for group, peak in peak_rates(settings).items()}


def peak_rates(settings: TrainingConfig) -> dict[WeightGroup, float]:
    """The highest learning rate of each group of weights."""
    return {
        "denoiser": settings.learning_rate,
        "text_encoder": settings.text_encoder_learning_rate or settings.learning_rate,
        "embedding": settings.embedding_learning_rate or settings.learning_rate,
    }


def schedule_share(settings: TrainingConfig, step: int) -> float:
    """The share of its peak, in [0, 1], that a rate has at optimizer step ``step`` (from 0 on).

    It rises linearly over ``warmup_steps`` and is above 0 from the first step on (diffusers' own
    warm-up spends its first step at a rate of 0), then follows diffusers' schedule.
    """
    warmup = settings.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return _after_warmup(settings)(step)


def _after_warmup(settings: TrainingConfig) -> Callable[[int], float]:
    """diffusers' schedule, as a function of the step."""
    # A scheduler is built around an optimizer; only its function is of use here.
    carrier = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    warmup, steps = settings.warmup_steps, settings.steps
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
    share: Callable[[int], float] = scheduler.lr_lambdas[0]
    return share
