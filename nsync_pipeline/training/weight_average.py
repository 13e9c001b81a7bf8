"""A running average of the trained weights (EMA)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """``average <- d average + (1 - d) weights`` after each step, from the first weights on.

    ``d = min(decay, (1 + n) / (10 + n))`` after step ``n``, so that a short training's average does
    not stay at its start. Source: diffusers' EMAModel, after TensorFlow's.
    """

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self._weights = tuple(weights)
        self._decay = decay
        self.tensors: tuple[Tensor, ...] = tuple(w.detach().clone() for w in weights)

    def update(self, steps: int) -> None:
        """Take in the weights as they are after ``steps`` steps."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_(self.tensors, [w.detach() for w in self._weights], 1.0 - decay)

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Take up the average as it was."""
        for average, tensor in zip(self.tensors, tensors, strict=True):
            average.copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the weights be their average; afterwards they are as they were."""
        own = [weight.detach().clone() for weight in self._weights]
        set_weights(self._weights, self.tensors)
        try:
            yield
        finally:
            set_weights(self._weights, own)


def set_weights(weights: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Give each of ``weights`` its value."""
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
