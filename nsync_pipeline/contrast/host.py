"""From a GPU to the host: where the host waits, and where it does not.

While a GPU works on what it was given, the host gives it what comes next, until it asks for a
number: then it waits, and the GPU has nothing to do for as long as the host takes to go on. A step
asks twice, for the gradients' inner products and for the length of the refined one.
"""

from typing import Any

import torch
from torch import Tensor


def in_float64(values: Tensor) -> Tensor:
    """``values`` in float64, where they are; MPS has none, so on the CPU.

    There they come in their own type: MPS would make the new one before it sends them.
    """
    return (values.cpu() if values.device.type == "mps" else values).double()


class ToHost:
    """Some numbers on their way to the host, behind what the GPU was given before."""

    def __init__(self, values: Tensor) -> None:
        self._host = values
        self._arrived: Any = None  # a CUDA event
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def numbers(self) -> list[float]:
        """Waits, unless they have arrived."""
        if self._arrived is not None and not self._arrived.query():
            self._arrived.synchronize()
        found: list[float] = self._host.tolist()
        return found
