"""The branches' gradients of an optimizer step, over its micro-batches and processes: finite."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from nsync_pipeline.adaptation.dropout import set_dropout_rows
from nsync_pipeline.contrast.branch_gradients import (
    BranchGradients,
    BranchLosses,
    BranchPass,
    MicroBatch,
    gradients_in_turn,
)
from nsync_pipeline.contrast.config import ANCHOR, Branch, ContrastConfig, UpdateRule
from nsync_pipeline.contrast.rules import automatic_beta, running_size
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.training.batches import branch_losses
from nsync_pipeline.training.batches_ahead import BatchesAhead
from nsync_pipeline.training.neighbours import WITH_OWN_LOSS, NeighbourLosses
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
    ahead: BatchesAhead
    branch_pass: BranchPass
    processes: Processes
    loss_scale: LossScale | None  # None: losses are not scaled
    rule: UpdateRule = "orthogonal"
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    autocast: bool = False
    taken_at: float | None = None  # the scale of the last step; None: not scaled
    overflows: int = 0  # attempts at the last step that were thrown away
    margin_size: float | None = None  # of preference: the running size of the steps before
    _margins: dict[int, float] = field(default_factory=dict, init=False)  # by sample, of this step

    def __call__(self, step: int, triplets: Sequence[Triplet]) -> BranchGradients:
        """The gradients of optimizer step ``step`` (from 0 on), whose samples are ``triplets``.

        Whether they are finite is known where losses are scaled; else ``require_finite`` asks.

        Raises:
            TrainingError: a loss or a gradient is not finite at any scale, or memory runs out.
        """
        try:
            return self._taken(step, triplets)
        finally:
            if self.ahead.maker.drops:
                set_dropout_rows(self.family, ())

    def prepare(self, step: int, triplets: Sequence[Triplet]) -> None:
        """Have the batches of a step to come made meanwhile."""
        parts = self.branch_pass.parts(self.processes.share(triplets))
        self.ahead.begin(step, parts, self._branches_of(step))

    def _branches_of(self, step: int) -> tuple[Branch, ...]:
        if step % self.contrast.negative_every == 0:
            return self.branches
        return tuple(branch for branch in self.branches if not branch.is_negative)

    def _taken(self, step: int, triplets: Sequence[Triplet]) -> BranchGradients:
        branches = self._branches_of(step)
        losses_of = partial(self._losses, step, branches)
        share, total = self.processes.share(triplets), len(triplets)
        self.overflows = 0
        while True:
            factor = 1.0 if self.loss_scale is None else self.loss_scale.value
            self._margins.clear()
            found = self.branch_pass(share, losses_of, total, factor, branches)
            found = self.processes.summed(found)
            self.branch_pass.plan = self.processes.most_careful(self.branch_pass.plan)
            scaled = self.loss_scale
            broken = None if scaled is None else _not_finite(found)
            if broken is None:
                if scaled is not None:
                    self.taken_at = factor
                    self.loss_scale = scaled.after_step()
                if self.rule == "preference":
                    mean = self.processes.total(sum(self._margins.values()) / total)
                    self.margin_size = running_size(self.margin_size, torch.tensor(mean))
                return found
            lower = None if scaled is None else scaled.after_overflow()
            # The scale does nothing to a loss: that one will not be finite at any other.
            if broken[0] == "loss" or lower is None:
                raise self._error(broken, step, triplets, factor)
            self.loss_scale = lower
            self.overflows += 1

    def require_finite(
        self,
        step: int,
        triplets: Sequence[Triplet],
        found: BranchGradients,
        norms: Mapping[Branch, float],
    ) -> None:
        """Raise a TrainingError where a loss of ``found`` is not finite, or a gradient's norm."""
        if (broken := _not_finite(found, norms)) is not None:
            raise self._error(broken, step, triplets, self.taken_at or 1.0)

    def _error(
        self, broken: tuple[str, Branch], step: int, triplets: Sequence[Triplet], factor: float
    ) -> TrainingError:
        kind, branch = broken
        guilty = [t for t in triplets if self._is_broken(kind, branch, step, t, factor)]
        pictures = ", ".join(sorted({self._picture_of(branch, t) for t in guilty or triplets}))
        return TrainingError(
            f"step {step + 1}: the {kind} of the {branch} branch is not finite (pictures "
            f"{pictures}). Lower training.learning_rate, or look at these pictures; with "
            "base_model.dtype float16, try bfloat16 or float32. The newest checkpoint is "
            "kept."
        )

    def _losses(
        self, step: int, branches: Sequence[Branch], samples: Sequence[Triplet]
    ) -> BranchLosses:
        if self.rule not in WITH_OWN_LOSS:
            batches = {branch: self.ahead.batch(branch, step, samples) for branch in branches}
            return self._in_its_type(branch_losses(self.family, batches))
        positions = [triplet.position for triplet in samples]

        def on_margins(margins: Tensor) -> None:  # over again where a pass is tried again
            self._margins.update(zip(positions, margins.abs().tolist(), strict=True))

        # A pair's margin is asked for whichever branch's gradient is.
        batches = {branch: self.ahead.batch(branch, step, samples) for branch in self.branches}
        return self._in_its_type(
            NeighbourLosses(self.family, self.rule, self.contrast, batches, self.beta, on_margins)
        )

    def _in_its_type(self, plain: BranchLosses) -> BranchLosses:
        """``plain``, or with products in half precision where that is asked for."""
        if not self.autocast:
            return plain
        half = self.family.dtype if self.family.dtype == torch.float16 else torch.bfloat16

        def losses(branches: Sequence[Branch]) -> Tensor:
            with torch.autocast(self.family.device.type, half):
                return plain(branches)

        return losses

    @property
    def beta(self) -> float:
        """Of preference, at the next step."""
        if self.contrast.beta is not None:
            return self.contrast.beta
        return automatic_beta(self.margin_size or 0.0, math.prod(self.family.latent_shape))

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
        return self.ahead.maker.examples.ids[triplet.anchor if branch == ANCHOR else place]


def _not_finite(
    found: BranchGradients, norms: Mapping[Branch, float] | None = None
) -> tuple[str, Branch] | None:
    """The first loss, else the first gradient, that is not finite; of which branch.

    ``norms`` are the gradients', where they are known: not finite where a number of one is not.
    """
    for branch, loss in found.losses.items():
        if not math.isfinite(loss):
            return "loss", branch
    if norms is None:
        flat = [torch.cat([part.flatten() for part in of]) for of in found.gradients.values()]
        sound = torch.stack([gradient.isfinite().all() for gradient in flat]).tolist()
    else:
        sound = [math.isfinite(norms[branch]) for branch in found.gradients]
    for branch, is_sound in zip(found.gradients, sound, strict=True):
        if not is_sound:
            return "gradient", branch
    return None
