"""Which way the branches' gradients are taken: fused where that fits, else in turn."""

import logging
from collections.abc import Sequence

import torch
from torch import nn

from nsync_pipeline.contrast.branch_copies import BranchCopies, NotFusableError
from nsync_pipeline.contrast.gradients import (
    BranchGradients,
    BranchLosses,
    gradients_fused,
    gradients_in_turn,
)
from nsync_pipeline.contrast.rules import Branch, BranchMode
from nsync_pipeline.errors import TrainingError

logger = logging.getLogger(__name__)


class BranchPass:
    """Takes every branch's gradient, in the mode asked for.

    ``auto`` is fused; where that runs out of memory, or a layer cannot hold a copy a branch, it
    goes over to passes in turn for good, and says so in the log.

    Args:
        modules: the models that hold the PEFT LoRA layers.
        weights: the trainable weights, in the order of the gradients.
        adapter: the adapter's name.
        mode: as in ``training.branches``.
        loss_scale: what losses are multiplied by on the way back, and gradients divided by: keeps
            small numbers from becoming 0 where the model computes in float16.

    Raises:
        TrainingError: ``fused`` is asked for, and a layer cannot hold a copy a branch.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        weights: Sequence[nn.Parameter],
        adapter: str,
        mode: BranchMode,
        loss_scale: float = 1.0,
    ) -> None:
        self._weights = tuple(weights)
        self._loss_scale = loss_scale
        self._may_fall_back = mode == "auto"
        self._copies: BranchCopies | None = None
        if mode == "in_turn":
            return
        try:
            self._copies = BranchCopies(modules, weights, adapter)
        except NotFusableError as reason:
            if not self._may_fall_back:
                raise TrainingError(
                    f"training.branches is fused, which these LoRA layers do not allow ({reason}); "
                    "set it to auto or in_turn, or change training.lora.targets"
                ) from reason
            logger.warning("a pass for each branch in turn: %s", reason)

    @property
    def fused(self) -> bool:
        """Whether several branches go in one pass."""
        return self._copies is not None

    def in_turn_from_now_on(self) -> None:
        """Take the branches in turn, as an interrupted training had come to do."""
        self._copies = None

    def __call__(
        self, branches: Sequence[Branch], micro_batches: Sequence[BranchLosses]
    ) -> BranchGradients:
        """The gradients of ``branches``; a single branch needs no copies."""
        if self._copies is None or len(branches) == 1:
            return self._in_turn(branches, micro_batches)
        try:
            return gradients_fused(self._copies, branches, micro_batches, self._loss_scale)
        except RuntimeError as error:
            if not self._may_fall_back or not out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
        # Outside of the handler: the traceback would keep the failed pass's tensors alive.
        logger.warning("the fused pass ran out of memory; from now on a pass a branch: %s", reason)
        self._copies = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._in_turn(branches, micro_batches)

    def _in_turn(
        self, branches: Sequence[Branch], micro_batches: Sequence[BranchLosses]
    ) -> BranchGradients:
        return gradients_in_turn(self._weights, branches, micro_batches, self._loss_scale)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether ``error`` says that an allocation failed; the CPU's has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
