"""The learning rate of each step: a pure function, so nothing of it needs to be kept."""

import math

from nsync_pipeline.training.config import TrainingConfig


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """The learning rate of optimizer step ``step`` (from 0 on).

    It rises linearly over ``warmup_steps``, then, with ``u`` the share of the rest that is done in
    [0, 1), is ``lr`` (constant), ``lr (1 - u)`` (linear) or ``lr (1 + cos(pi u)) / 2`` (cosine).
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, settings.steps - warmup)
    if settings.schedule == "linear":
        return peak * (1.0 - done)
    if settings.schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * done))
    return peak
