"""From the branches' gradients of an optimizer step to the one that the optimizer sees."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.contrast.refinement import Gradient, Refinement, refine
from nsync_pipeline.contrast.rules import Branch, UpdateRule, branches_of


class Refiner:
    """Refines the gradients of a training, step after step.

    Args:
        rule: the update rule.
        contrast: what lies beside it.
        names: of the trained weights, in the order of the gradients' tensors.
        shapes: of the same.
    """

    def __init__(
        self,
        rule: UpdateRule,
        contrast: ContrastConfig,
        names: Sequence[str],
        shapes: Sequence[torch.Size],
    ) -> None:
        self.branches = branches_of(rule, contrast)
        self._rule = rule

    def __call__(
        self, gradients: Mapping[Branch, Gradient], metric: Sequence[Tensor] | None = None
    ) -> Refinement:
        """Refine one step's gradients, already averaged over micro-batches and ranks.

        ``metric`` holds the diagonal weights of the inner product, a tensor a trained weight; None
        is the Euclidean one.
        """
        return refine(self._rule, gradients)

    def state_tensors(self) -> dict[str, Tensor]:
        """What is kept from step to step, for a checkpoint."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what ``state_tensors`` gave."""
