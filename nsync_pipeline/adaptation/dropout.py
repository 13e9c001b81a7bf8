"""LoRA dropout whose masks hang on the step, the sample and the layer, and on nothing else.

PEFT's own draws from the global generator, so a mask would hang on what else was drawn, on the
micro-batch and on whether branches are taken at once. Here a training is the same in any way.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nsync_pipeline.families.family import Family
from nsync_pipeline.seeding import stream_seed


@dataclass
class DropoutRows:
    """What the samples of a batch, row by row, are dropped by; shared by all layers of a family."""

    seeds: tuple[int, ...] = ()  # empty: nothing is dropped, as wherever nothing is trained


class SampleDropout(nn.Module):
    """``x`` with a share of its numbers zero and the others so much larger, while rows are set."""

    by_sample = True  # a batch may hold several branches (``contrast.branch_copies``)

    def __init__(self, share: float, layer: str, rows: DropoutRows) -> None:
        super().__init__()
        self.share, self.layer, self.rows = share, layer, rows

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        seeds = self.rows.seeds
        if not seeds:
            return x
        assert len(x) == len(seeds), f"{self.layer} has {len(x)} rows of {len(seeds)} samples"
        kept = torch.empty_like(x)
        for row, seed in zip(kept, seeds, strict=True):
            generator = torch.Generator(x.device).manual_seed(stream_seed(seed, self.layer))
            row.bernoulli_(1.0 - self.share, generator=generator)
        return x * kept.div_(1.0 - self.share)


def dropout_rows(family: Family) -> DropoutRows | None:
    """Those that the family's LoRA layers share; None: its LoRA has no dropout."""
    modules = chain.from_iterable(m.modules() for m in (family.denoiser, *family.text_encoders))
    return next((module.rows for module in modules if isinstance(module, SampleDropout)), None)


def set_dropout_rows(family: Family, seeds: tuple[int, ...]) -> None:
    """Let the next passes drop by ``seeds``, until others are set."""
    if (rows := dropout_rows(family)) is not None:
        rows.seeds = seeds


def checkpoint_by_rows(rows: DropoutRows) -> Callable[..., Any]:
    """diffusers' function for activations that are computed again: by the rows of their pass."""

    def again(seeds: tuple[int, ...]) -> tuple[Context, Context]:
        return nullcontext(), _set(rows, seeds)

    def checkpointed(module: nn.Module, *args: Any) -> Any:
        context_fn = partial(again, rows.seeds)
        return checkpoint(module.__call__, *args, use_reentrant=False, context_fn=context_fn)

    return checkpointed


Context = AbstractContextManager[None]


@contextmanager
def _set(rows: DropoutRows, seeds: tuple[int, ...]) -> Iterator[None]:
    before, rows.seeds = rows.seeds, seeds
    try:
        yield
    finally:
        rows.seeds = before
