"""The branches' gradients of an optimizer step, over its micro-batches and processes: finite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from nsync_pipeline.contrast.branch_gradients import (
    BranchGradients,
    BranchLosses,
    BranchPass,
    MicroBatch,
    gradients_in_turn,
)
from nsync_pipeline.contrast.config import ANCHOR, Branch
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.training.batches import BatchMaker, branch_losses
from nsync_pipeline.training.optimizer import LossScale
from nsync_pipeline.training.processes import Processes
from nsync_pipeline.training.triplets import Triplet


@dataclass
class StepGradients:
    """Takes the gradients of one step after another.

    In float16 losses are scaled. Where a gradient overflows in any branch, micro-batch or process,
    all of that attempt is thrown away, in all branches, and the same step is tried again at half
    the scale: no sample is lost, and the same weights come of it as with a scale that was right.
    """

    family: Family
    weights: Sequence[nn.Parameter]
    branches: tuple[Branch, ...]
    maker: BatchMaker
    branch_pass: BranchPass
    processes: Processes
    loss_scale: LossScale | None  # None: losses are not scaled
    taken_at: float | None = None  # the scale of the last step; None: not scaled
    overflows: int = 0  # attempts at the last step that were thrown away

    def __call__(self, step: int, triplets: Sequence[Triplet]) -> BranchGradients:
        """The gradients of optimizer step ``step`` (from 0 on), whose samples are ``triplets``.

        Raises:
            TrainingError: a loss or a gradient is not finite, or memory runs out.
        """

        losses_of = partial(self._losses, step, self.branches)
        self.overflows = 0
        while True:
            factor = 1.0 if self.loss_scale is None else self.loss_scale.value
            found = self.processes.summed(
                self.branch_pass(self.processes.share(triplets), losses_of, len(triplets), factor)
            )
            self.branch_pass.plan = self.processes.most_careful(self.branch_pass.plan)
            broken = _not_finite(found)
            if broken is None:
                if self.loss_scale is not None:
                    self.taken_at = factor
                    self.loss_scale = self.loss_scale.after_step()
                return found
            kind, branch = broken
            lower = self.loss_scale.after_overflow() if self.loss_scale is not None else None
            # The scale does nothing to a loss: that one will not be finite at any other.
            if kind == "loss" or lower is None:
                guilty = [t for t in triplets if self._is_broken(kind, branch, step, t, factor)]
                ids = {self._picture_of(branch, t) for t in guilty or triplets}
                pictures = ", ".join(sorted(ids))
                raise TrainingError(
                    f"step {step + 1}: the {kind} of the {branch} branch is not finite (pictures "
                    f"{pictures}). Lower training.learning_rate, or look at these pictures; with "
                    "base_model.dtype float16, try bfloat16 or float32. The newest checkpoint is "
                    "kept."
                )
            self.loss_scale = lower
            self.overflows += 1

    def _losses(
        self, step: int, branches: Sequence[Branch], samples: Sequence[Triplet]
    ) -> BranchLosses:
        batches = {branch: self.maker.batch(branch, step, samples) for branch in branches}
        return branch_losses(self.family, batches)

    def _is_broken(
        self, kind: str, branch: Branch, step: int, triplet: Triplet, factor: float
    ) -> bool:
        """Whether the triplet's own loss or gradient is not finite."""
        losses = self._losses(step, (branch,), [triplet])
        if kind == "loss":
            with torch.no_grad():
                return not bool(losses((branch,)).isfinite().all())
        found = gradients_in_turn(self.weights, (branch,), [MicroBatch(losses, 1.0)], factor)
        return _not_finite(found) is not None

    def _picture_of(self, branch: Branch, triplet: Triplet) -> str:
        """The id of the picture that a branch's sample is, or was drawn for."""
        place = triplet.negatives_of if branch.is_negative else triplet.positive
        return self.maker.examples.ids[triplet.anchor if branch == ANCHOR else place]


def _not_finite(found: BranchGradients) -> tuple[str, Branch] | None:
    """The first loss, else the first gradient, that is not finite; of which branch."""
    for branch, loss in found.losses.items():
        if not math.isfinite(loss):
            return "loss", branch
    for branch, gradient in found.gradients.items():
        if not bool(torch.cat([tensor.flatten() for tensor in gradient]).isfinite().all()):
            return "gradient", branch
    return None
