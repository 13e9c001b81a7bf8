"""One gradient a branch: in turn (a pass each) or fused (one pass for all), as memory allows."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from nsync_pipeline.contrast.branch_copies import BranchCopies, NotFusableError
from nsync_pipeline.contrast.config import Branch, BranchMode
from nsync_pipeline.contrast.host import ToHost, in_float64
from nsync_pipeline.errors import TrainingError

logger = logging.getLogger(__name__)

Sample = TypeVar("Sample")

BranchLosses = Callable[[Sequence[Branch]], Tensor]
"""A micro-batch: the mean loss of each branch asked for, ``(len(branches),)``, by one forward pass
over these branches stacked in one batch in that order."""


@dataclass(frozen=True)
class MicroBatch:
    """A part of an optimizer step's samples."""

    losses: BranchLosses
    share: float  # of the step's samples, over all processes: what its means count for


class Losses(Mapping[Branch, float]):
    """A loss a branch: numbers that a GPU is not waited for until one of them is looked at."""

    def __init__(self, branches: Sequence[Branch], values: Sequence[float] | Tensor) -> None:
        """``values`` are one a branch, (len(branches),) float64."""
        self._branches = tuple(branches)
        self._values = ToHost(values) if isinstance(values, Tensor) else values

    def __getitem__(self, branch: Branch) -> float:
        if isinstance(self._values, ToHost):
            self._values = self._values.numbers()
        return dict(zip(self._branches, self._values, strict=True))[branch]

    def __iter__(self) -> Iterator[Branch]:
        return iter(self._branches)

    def __len__(self) -> int:
        return len(self._branches)


@dataclass(frozen=True)
class BranchGradients:
    """Loss and gradient of each branch: means over the samples of an optimizer step.

    Where only a part of the step's samples is here, the sum of all parts' is the mean.
    """

    losses: "Losses"
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
    losses: list[Tensor] = []
    gradients: dict[Branch, tuple[Tensor, ...]] = {}
    for branch in branches:
        loss, gradients[branch] = _accumulated(weights, (branch,), micro_batches, loss_scale)
        losses.append(loss)
    return BranchGradients(Losses(branches, torch.cat(losses) if losses else []), gradients)


def gradients_fused(
    copies: BranchCopies,
    branches: Sequence[Branch],
    micro_batches: Sequence[MicroBatch],
    loss_scale: float = 1.0,
    mirrored: frozenset[Branch] = frozenset(),
) -> BranchGradients:
    """One forward and one backward pass a micro-batch for all branches; the same gradients.

    The loss of a branch that is ``mirrored`` is that at mirrored weights, with their gradient.

    Each branch's part of the stacked batch is multiplied by that branch's own copy of the trainable
    weights. The loss of a branch then depends on its own copy only, so the gradient of the summed
    losses with respect to the stacked copies holds every branch's gradient, apart.
    """
    signs = [branch in mirrored for branch in branches]
    with copies.in_use(len(branches), signs) as leaves:
        losses, stacked = _accumulated(leaves, branches, micro_batches, loss_scale)
    return BranchGradients(
        Losses(branches, losses),
        {b: tuple(tensor[i] for tensor in stacked) for i, b in enumerate(branches)},
    )


def _accumulated(
    weights: Sequence[Tensor],
    branches: Sequence[Branch],
    micro_batches: Sequence[MicroBatch],
    loss_scale: float,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The losses of ``branches``, and the gradient of their sum, over the micro-batches."""
    totals = torch.zeros((), dtype=torch.float64)  # of a scalar on the host no GPU minds
    summed: tuple[Tensor, ...] = ()
    for part in micro_batches:
        losses = part.losses(branches)
        of_part = in_float64(losses.detach()) * part.share
        totals = totals + of_part
        scaled = losses.sum() * (loss_scale * part.share)
        gradient = torch.autograd.grad(scaled, weights, materialize_grads=True)
        summed = tuple(torch._foreach_add(summed, gradient)) if summed else gradient
    return totals, summed if loss_scale == 1 else tuple(torch._foreach_div(summed, loss_scale))


@dataclass(frozen=True)
class MemoryPlan:
    """What is held in memory at once. The gradients do not depend on it, but for rounding."""

    fused: bool  # all branches in one pass, or a pass each
    micro_batch: int  # samples of a branch a pass

    def more_careful(self) -> "MemoryPlan | None":
        """The next plan that needs less memory; None where there is none."""
        if self.fused:
            return replace(self, fused=False)
        if self.micro_batch > 1:
            return replace(self, micro_batch=(self.micro_batch + 1) // 2)
        return None


class BranchPass:
    """Takes the gradient of every branch by a plan; ``plan`` may be set.

    ``auto`` begins fused. Where that runs out of memory, or a layer cannot hold a copy a branch, it
    goes over to passes in turn, and then halves the micro-batch, for good: the log says so.
    ``modules`` hold the trainable ``weights``; ``micro_batch`` are the samples a pass begins with.
    The losses of ``mirrored`` branches are taken at mirrored weights, by copies in either way.

    Raises:
        TrainingError: ``fused`` or a mirrored branch is asked for, and a layer cannot hold a copy a
            branch.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        weights: Sequence[nn.Parameter],
        adapter: str,
        branches: Sequence[Branch],
        mode: BranchMode,
        micro_batch: int,
        mirrored: frozenset[Branch] = frozenset(),
    ) -> None:
        self._weights = tuple(weights)
        self._branches = tuple(branches)
        self._mirrored = mirrored
        self._may_change = mode == "auto"
        self._copies: BranchCopies | None = None
        fused = mode != "in_turn" and len(branches) > 1
        if fused or mirrored:
            try:
                self._copies = BranchCopies(modules, weights, adapter)
            except NotFusableError as reason:
                if mirrored:
                    raise TrainingError(
                        "training.update_rule mirrors what is trained in a branch, which training."
                        f"lora does not allow as it is ({reason})"
                    ) from reason
                if not self._may_change:
                    raise TrainingError(
                        "training.branches is fused, which what is trained here does not allow "
                        f"({reason}); set it to auto or in_turn, or change training.lora"
                    ) from reason
                logger.warning("a pass for each branch in turn: %s", reason)
        self.plan = MemoryPlan(fused and self._copies is not None, micro_batch)

    def __call__(
        self,
        samples: Sequence[Sample],
        losses_of: Callable[[Sequence[Sample]], BranchLosses],
        total: int,
        loss_scale: float = 1.0,
        branches: Sequence[Branch] | None = None,
    ) -> BranchGradients:
        """The gradients for ``samples``, which are some of a step's ``total``.

        ``branches`` are those of this step; None: all.

        Raises:
            TrainingError: memory runs out, and there is no plan that needs less.
        """
        taken = self._branches if branches is None else tuple(branches)
        while True:
            try:
                return self._gradients(taken, samples, losses_of, total, loss_scale)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # Outside of the handler: the traceback would keep the failed pass's tensors alive.
            self._use_less_memory(reason)

    def parts(self, samples: Sequence[Sample]) -> list[Sequence[Sample]]:
        """``samples`` by micro-batches, as the plan has them."""
        size = self.plan.micro_batch
        return [samples[start : start + size] for start in range(0, len(samples), size)]

    def _gradients(
        self,
        branches: Sequence[Branch],
        samples: Sequence[Sample],
        losses_of: Callable[[Sequence[Sample]], BranchLosses],
        total: int,
        loss_scale: float,
    ) -> BranchGradients:
        parts = self.parts(samples)
        micro_batches = [MicroBatch(losses_of(part), len(part) / total) for part in parts]
        if self._copies is not None and self.plan.fused and len(branches) > 1:
            return gradients_fused(
                self._copies, branches, micro_batches, loss_scale, self._mirrored
            )
        plain = [branch for branch in branches if branch not in self._mirrored]
        found = gradients_in_turn(self._weights, plain, micro_batches, loss_scale)
        turned = [branch for branch in branches if branch in self._mirrored]
        if not turned or self._copies is None:
            return found
        losses, gradients = dict(found.losses), dict(found.gradients)
        for branch in turned:
            found = gradients_fused(
                self._copies, (branch,), micro_batches, loss_scale, self._mirrored
            )
            losses |= found.losses
            gradients |= found.gradients
        return BranchGradients(Losses(tuple(losses), tuple(losses.values())), gradients)

    def _use_less_memory(self, reason: str) -> None:
        plan = self.plan.more_careful() if self._may_change else None
        if plan is None:
            change = "set training.branches to auto, or lower training.batch_size"
            if self._may_change:
                change = "turn training.gradient_checkpointing on, or lower base_model.resolution"
            at_once = "all branches at once" if self.plan.fused else "branches in turn"
            raise TrainingError(
                f"out of memory with {self.plan.micro_batch} samples a pass, {at_once}: {change}. "
                f"({reason})"
            )
        passes = "all branches in a pass" if plan.fused else "a pass a branch"
        logger.warning(
            "out of memory; from now on %s, %d samples a pass (%s)",
            passes,
            plan.micro_batch,
            reason,
        )
        self.plan = plan
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that an allocation failed."""
    # Errors of the CPU have no class of their own; the last is oneDNN's.
    words = ("DefaultCPUAllocator", "bad_alloc", "could not create a primitive")
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(word in str(error) for word in words)
