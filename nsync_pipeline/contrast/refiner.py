"""From the branches' gradients of an optimizer step to the one that the optimizer sees."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.contrast.diagnosis import diagnostics_of, unrefined
from nsync_pipeline.contrast.gram import (
    Gradient,
    combined,
    flat_vector,
    inner_products,
    tensors_of,
)
from nsync_pipeline.contrast.negative_estimate import negative_estimate
from nsync_pipeline.contrast.refinement import Refinement
from nsync_pipeline.contrast.rules import Branch, UpdateRule, branches_of
from nsync_pipeline.contrast.scopes import layout_of
from nsync_pipeline.contrast.update import (
    ABSENT,
    Directions,
    InnerProducts,
    Update,
    averaged,
    with_anchor,
    without_projection,
)


class Refiner:
    """Refines the gradients of a training, step after step (the equations are in ``rules``).

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
        self._contrast = contrast
        self._layout = layout_of(names, shapes, contrast.scope)
        self._estimate = negative_estimate(contrast, self._layout.size)
        self._negatives = sum(branch.startswith("negative") for branch in self.branches)

    def __call__(
        self, gradients: Mapping[Branch, Gradient], metric: Sequence[Tensor] | None = None
    ) -> Refinement:
        """Refine one step's gradients, already averaged over micro-batches and ranks.

        ``metric`` holds the diagonal weights of the projections' inner product, a positive tensor a
        trained weight; None is the Euclidean one. All sums are in float64. Where a gradient is not
        finite, its norm is not, nor is ``|g'|``, which the caller checks; ``g+`` is given back as
        it was, and nothing is kept of the step.

        Raises:
            ValueError: a branch that the rule needs is missing, or shapes are not the weights'.
        """
        self._require_fitting(gradients)
        vectors = [flat_vector(gradients[branch], self._layout) for branch in self.branches]
        negatives = vectors[1 : 1 + self._negatives]
        vectors += self._further(vectors)
        plain = inner_products(vectors, self._layout)
        squares = plain.diagonal(dim1=1, dim2=2).sum(dim=0)[: len(self.branches)]
        norms = squares.sqrt().tolist()
        by_branch = dict(zip(self.branches, norms, strict=True))
        positive = gradients["positive"]
        if not bool(squares.isfinite().all()):
            return Refinement(tuple(positive), unrefined(norms, self.branches), by_branch)
        products = InnerProducts(plain, plain)
        if metric is not None:
            weighting = flat_vector(metric, self._layout)
            products = InnerProducts(plain, inner_products(vectors, self._layout, weighting))

        lengths = [norm if norm > ABSENT * norms[0] else 0.0 for norm in norms]
        lengths = lengths[1 : 1 + self._negatives]
        update = self._update(products, lengths)
        found = combined(vectors, update.weights, self._layout)
        kept = len(self._estimate.rows)
        diagnostics = diagnostics_of(products, update, self.branches, kept, found.norm)
        self._estimate.take_in(negatives, lengths)
        if self._contrast.negative_estimate != "step":
            memory = sum(row.nbytes for row in self._estimate.rows)
            diagnostics = replace(diagnostics, estimate_bytes=memory)
        if self._contrast.negative_estimate == "running_basis" or self._negatives > 1:
            diagnostics = replace(diagnostics, basis_rank=int(update.ranks.max()))
        gradient = tensors_of(found.vector, self._layout, positive)
        return Refinement(gradient, diagnostics, by_branch)

    def state_tensors(self) -> dict[str, Tensor]:
        """What is kept from step to step, for a checkpoint; empty without a running estimate."""
        return self._estimate.state_tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what ``state_tensors`` gave, among other tensors or alone.

        Raises:
            ValueError: it is of another number of trained weights.
        """
        self._estimate.restore(tensors)

    def _further(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """The vectors beside the branches' gradients."""
        if self._rule == "released":
            # Added up in the gradients' own number type, as gradients that are not set to zero are.
            return [torch.stack(list(vectors)).sum(dim=0)]
        self._estimate.rows = [row.to(vectors[0].device) for row in self._estimate.rows]
        return self._estimate.rows

    def _update(self, products: InnerProducts, lengths: Sequence[float]) -> Update:
        contrast, branches = self._contrast, len(self.branches)
        count = products.plain.shape[-1]
        if self._rule in ("none", "mean"):
            return averaged(products, branches)
        if self._rule == "released":
            accumulated = torch.eye(count, dtype=torch.float64)[-1:]
            update = without_projection(products, Directions(accumulated, unit=False))
            update.weights[:, 0] += float(contrast.anchor)
            return update
        directions = self._estimate.directions(lengths)
        parts = torch.zeros(len(directions), count, dtype=torch.float64)
        parts[:, 1 : 1 + self._negatives] = directions[:, : self._negatives]
        parts[:, branches:] = directions[:, self._negatives :]
        update = without_projection(
            products,
            Directions(parts, self._estimate.unit),
            contrast.strength,
            cone=contrast.positive_part,
        )
        if "anchor" in self.branches:
            return with_anchor(update, products, self.branches.index("anchor"))
        return update

    def _require_fitting(self, gradients: Mapping[Branch, Gradient]) -> None:
        missing = [branch for branch in self.branches if branch not in gradients]
        if missing:
            raise ValueError(f"rule {self._rule!r} needs the gradient of {', '.join(missing)}")
        for branch in self.branches:
            if tuple(tensor.shape for tensor in gradients[branch]) != self._layout.shapes:
                raise ValueError(f"the shapes of the gradient of {branch} are not the weights'")
