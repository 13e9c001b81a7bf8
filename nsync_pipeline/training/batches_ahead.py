"""The batches of the next step, made while a GPU works on this one."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from nsync_pipeline.contrast.config import Branch
from nsync_pipeline.training.batches import BatchMaker, NoisyBatch
from nsync_pipeline.training.triplets import Triplet

Batches = tuple[NoisyBatch, ...]


def makes_ahead(device: torch.device) -> bool:
    """Whether the host would only wait meanwhile: on a CPU both would share its cores."""
    return device.type == "cuda"


@dataclass
class BatchesAhead:
    """Batches of ``maker``, the same whoever makes them: they hang on what is asked for alone.

    Those that are made ahead for a GPU lie in memory that it reads by itself (pinned).
    """

    maker: BatchMaker
    device: torch.device
    is_on: bool = False
    _thread: ThreadPoolExecutor | None = field(default=None, init=False)
    _made: dict[tuple[object, ...], "Future[Batches]"] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        # A thread begins with the first card, whichever the training has.
        card = torch.cuda.current_device() if self.device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, "batches", _use, (card,)) if self.is_on else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def begin(
        self, step: int, parts: Sequence[Sequence[Triplet]], branches: Sequence[Branch]
    ) -> None:
        """Have the batches of a step to come made."""
        if self._thread is not None:
            self._made = {
                _key(branch, step, part): self._thread.submit(self._pinned, branch, step, part)
                for part in parts
                for branch in branches
            }

    def batch(self, branch: Branch, step: int, triplets: Sequence[Triplet]) -> Batches:
        """What the maker makes; each that was made ahead is there once."""
        made = self._made.pop(_key(branch, step, triplets), None)
        return self.maker.batch(branch, step, triplets) if made is None else made.result()

    def _pinned(self, branch: Branch, step: int, triplets: Sequence[Triplet]) -> Batches:
        batches = self.maker.batch(branch, step, triplets)
        if self.device.type != "cuda":
            return batches
        return tuple(batch.each_tensor(Tensor.pin_memory) for batch in batches)


def _use(card: int | None) -> None:
    if card is not None:
        torch.cuda.set_device(card)


def _key(branch: Branch, step: int, triplets: Sequence[Triplet]) -> tuple[object, ...]:
    return branch, step, *(triplet.position for triplet in triplets)
