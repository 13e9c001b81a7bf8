"""One gradient a branch: in turn (a pass each), or fused (one pass for all)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nsync_pipeline.contrast.branch_copies import BranchCopies
from nsync_pipeline.contrast.rules import Branch

BranchLosses = Callable[[Sequence[Branch]], Tensor]
"""A micro-batch: the mean loss of each branch asked for, ``(len(branches),)``, by one forward pass
over these branches stacked in one batch in that order."""


@dataclass(frozen=True)
class MicroBatch:
    """A part of an optimizer step's samples."""

    losses: BranchLosses
    share: float  # of the step's samples, over all processes: what its means count for


@dataclass(frozen=True)
class BranchGradients:
    """Loss and gradient of each branch: means over the samples of an optimizer step.

    Where only a part of the step's samples is here, the sum of all parts' is the mean.
    """

    losses: Mapping[Branch, float]
    gradients: Mapping[Branch, tuple[Tensor, ...]]  # each of its weight's shape


def gradients_in_turn(
    weights: Sequence[nn.Parameter],
    branches: Sequence[Branch],
    micro_batches: Sequence[MicroBatch],
    loss_scale: float = 1.0,
) -> BranchGradients:
    """A forward and a backward pass a branch and micro-batch: the memory of one branch at a time.

    ``weights`` are the trainable ones; one that a loss does not reach has the gradient zero. Losses
    are multiplied by ``loss_scale`` on the way back, and the gradients divided by it.
    """
    losses: dict[Branch, float] = {}
    gradients: dict[Branch, tuple[Tensor, ...]] = {}
    for branch in branches:
        total = 0.0
        summed: tuple[Tensor, ...] = ()
        for part in micro_batches:
            loss = part.losses((branch,)).sum()
            total += float(loss.detach()) * part.share
            scaled = loss * (loss_scale * part.share)
            summed = _added(summed, torch.autograd.grad(scaled, weights, materialize_grads=True))
        losses[branch] = total
        gradients[branch] = _divided(summed, loss_scale)
    return BranchGradients(losses, gradients)


def gradients_fused(
    copies: BranchCopies,
    branches: Sequence[Branch],
    micro_batches: Sequence[MicroBatch],
    loss_scale: float = 1.0,
) -> BranchGradients:
    """One forward and one backward pass a micro-batch for all branches; the same gradients.

    Each branch's part of the stacked batch is multiplied by that branch's own copy of the trainable
    weights. The loss of a branch then depends on its own copy only, so the gradient of the summed
    losses with respect to the stacked copies holds every branch's gradient, apart.
    """
    totals = [0.0] * len(branches)
    summed: tuple[Tensor, ...] = ()
    with copies.in_use(len(branches)) as leaves:
        for part in micro_batches:
            losses = part.losses(branches)
            found = losses.detach().tolist()
            totals = [a + b * part.share for a, b in zip(totals, found, strict=True)]
            scaled = losses.sum() * (loss_scale * part.share)
            summed = _added(summed, torch.autograd.grad(scaled, leaves, materialize_grads=True))
    stacked = _divided(summed, loss_scale)
    return BranchGradients(
        dict(zip(branches, totals, strict=True)),
        {b: tuple(tensor[i] for tensor in stacked) for i, b in enumerate(branches)},
    )


def _added(summed: tuple[Tensor, ...], gradient: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not summed:
        return gradient
    return tuple(torch._foreach_add(summed, gradient))


def _divided(summed: tuple[Tensor, ...], by: float) -> tuple[Tensor, ...]:
    return summed if by == 1 else tuple(torch._foreach_div(summed, by))
