"""The losses of the rules that take more than a diffusion loss a branch: neighbours of the method.

Their formulas are in ``contrast.rules``. The frozen base is asked for its predictions without
gradients, in a pass of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nsync_pipeline.adaptation.in_use import as_base
from nsync_pipeline.contrast.config import (
    BY_BASE,
    NEGATIVE,
    POSITIVE,
    Branch,
    ContrastConfig,
    UpdateRule,
)
from nsync_pipeline.contrast.rules import contrastive_target_loss, mirrored_prediction
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.training.batches import NoisyBatch, losses_of, predicted, stacked
from nsync_pipeline.training.config import TrainingConfig

WITH_OWN_LOSS: frozenset[UpdateRule] = BY_BASE | {"contrastive_target"}
"""The rules whose losses are here."""


def require_fitting(family: Family, settings: TrainingConfig) -> None:
    """Raise ``TrainingError`` where the rule says nothing for what the base predicts."""
    if settings.update_rule == "contrastive_target" and (
        family.noise_schedule.prediction_type == "epsilon"
    ):
        raise TrainingError(
            f"update_rule contrastive_target has no effect on {family.name}, which predicts the "
            "noise: a positive and its negative have the same. It is for models that predict v or "
            "flow."
        )


@dataclass
class NeighbourLosses:
    """``BranchLosses`` of one micro-batch."""

    family: Family
    rule: UpdateRule
    contrast: ContrastConfig
    batches: Mapping[Branch, Sequence[NoisyBatch]]
    beta: float = 1.0  # of preference
    on_margins: Callable[[Tensor], None] = lambda margins: None
    _base: dict[tuple[Branch, int], Tensor] = field(default_factory=dict, init=False)
    _margins: Tensor | None = field(default=None, init=False)  # (B,) of each pair

    def __call__(self, branches: Sequence[Branch]) -> Tensor:
        each = self._each(branches)
        if self.rule == "preference":
            factors = self._factors(branches, each.detach())
            each = each.detach() + factors * (each - each.detach())  # what is shown is the loss
        return each.mean(dim=1)

    def _each(self, branches: Sequence[Branch]) -> Tensor:
        """The loss of each sample, (branches, B)."""
        found = []
        for place in range(len(self.batches[branches[0]])):
            parts = [self.batches[branch][place] for branch in branches]
            batch = stacked(parts, self.family.device)
            predictions = predicted(self.family, batch).chunk(len(branches))
            both = zip(branches, predictions, strict=True)
            found.append(torch.stack([self._losses(b, place, said) for b, said in both]))
        return torch.cat(found, dim=1)

    def _losses(self, branch: Branch, place: int, prediction: Tensor) -> Tensor:
        batch, contrast = self.batches[branch][place], self.contrast
        if self.rule == "class_preservation" and branch.is_negative:
            return losses_of(prediction, replace(batch, target=self._by_base(branch, place)))
        if self.rule == "negative_aware" and (branch.is_negative or contrast.mirror != 1.0):
            base = self._by_base(branch, place)
            moved = mirrored_prediction(prediction, base, contrast.mirror, branch.is_negative)
            return losses_of(moved, batch)
        own = losses_of(prediction, batch)
        if batch.other_target is None:
            return own
        other = losses_of(prediction, replace(batch, target=batch.other_target))
        return contrastive_target_loss(own, other, contrast.repulsion)

    def _by_base(self, branch: Branch, place: int) -> Tensor:
        """What the frozen base predicts."""
        if (branch, place) not in self._base:
            with torch.no_grad(), as_base(self.family):
                self._base[branch, place] = predicted(self.family, self.batches[branch][place])
        return self._base[branch, place]

    @torch.no_grad()
    def _factors(self, branches: Sequence[Branch], each: Tensor) -> Tensor:
        """What each sample's gradient counts for, (branches, B): as ``preference_loss`` weighs."""
        if self._margins is None:
            known = dict(zip(branches, each, strict=True))
            gains = []
            for branch in (POSITIVE, NEGATIVE):
                own = known[branch] if branch in known else self._each((branch,))[0]
                base = torch.cat(
                    [
                        losses_of(self._by_base(branch, place), batch)
                        for place, batch in enumerate(self.batches[branch])
                    ]
                )
                gains.append(own - base)
            self._margins = gains[0] - gains[1]
            self.on_margins(self._margins)
        half = self.beta / 2
        factor = half * torch.sigmoid(half * self._margins)
        own_loss = [self.contrast.supervised * (branch == POSITIVE) for branch in branches]
        return torch.stack([factor + weight for weight in own_loss])
