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
class BranchGradients:
    """Loss and gradient of each branch, averaged over the micro-batches of an optimizer step."""

    losses: Mapping[Branch, float]
    gradients: Mapping[Branch, tuple[Tensor, ...]]  # each of its weight's shape


def gradients_in_turn(
    weights: Sequence[nn.Parameter],
    branches: Sequence[Branch],
    micro_batches: Sequence[BranchLosses],
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
        for branch_losses in micro_batches:
            loss = branch_losses((branch,)).sum()
            total += float(loss.detach())
            scaled = loss * loss_scale
            summed = _added(summed, torch.autograd.grad(scaled, weights, materialize_grads=True))
        losses[branch] = total / len(micro_batches)
        gradients[branch] = _divided(summed, len(micro_batches) * loss_scale)
    return BranchGradients(losses, gradients)


def gradients_fused(
    copies: BranchCopies,
    branches: Sequence[Branch],
    micro_batches: Sequence[BranchLosses],
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
        for branch_losses in micro_batches:
            losses = branch_losses(branches)
            totals = [a + b for a, b in zip(totals, losses.detach().tolist(), strict=True)]
            scaled = losses.sum() * loss_scale
            found = torch.autograd.grad(scaled, leaves, materialize_grads=True)
            summed = _added(summed, found)
    stacked = _divided(summed, len(micro_batches) * loss_scale)
    return BranchGradients(
        {b: total / len(micro_batches) for b, total in zip(branches, totals, strict=True)},
        {b: tuple(tensor[i] for tensor in stacked) for i, b in enumerate(branches)},
    )


def _added(summed: tuple[Tensor, ...], gradient: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not summed:
        return gradient
    return tuple(torch._foreach_add(summed, gradient))


def _divided(summed: tuple[Tensor, ...], by: float) -> tuple[Tensor, ...]:
    return summed if by == 1 else tuple(torch._foreach_div(summed, by))
