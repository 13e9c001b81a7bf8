"""From the branches' gradients of an optimizer step to the one that the optimizer sees."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from nsync_pipeline.contrast.config import (
    ANCHOR,
    POSITIVE,
    Branch,
    ContrastConfig,
    UpdateRule,
    branches_of,
    conflict_of,
    require_meaning,
)
from nsync_pipeline.contrast.gram import (
    Gradient,
    combined,
    flat_vector,
    inner_products,
    layout_of,
    tensors_of,
)
from nsync_pipeline.contrast.negative_estimate import NegativeEstimate
from nsync_pipeline.contrast.projection import (
    ABSENT_ESTIMATE,
    InnerProducts,
    Update,
    accumulated,
    averaged,
    project,
    safeguarded,
    weighted,
    with_anchor,
    without_projection,
)
from nsync_pipeline.contrast.rules import ABSENT

ADDING: frozenset[UpdateRule] = frozenset(
    {"prior_preservation", "class_preservation", "slider", "negative_aware"}
)
"""The rules that add the gradient of a second loss."""


@dataclass(frozen=True)
class Diagnostics:
    """What a refinement did; None where a branch is not there or a cosine is not defined.

    Norms and cosines are Euclidean, over all that is trained. With several negatives, those of the
    negatives are means over them.
    """

    norm_positive: float  # |g+|
    norm_negative: float | None  # |g-|; None, too, in a step that takes none
    norm_anchor: float | None  # |ga|
    cosine_negative: float | None  # cos(g+, g-)
    cosine_anchor: float | None  # cos(g+, ga)
    share_removed: float  # |what is removed| / |g+|, in [0, 1], in the projection's inner product
    norm_refined: float  # |g'|
    largest_share_removed: float | None = None  # of a scope; None where the scope is global
    cosine_estimate: float | None = None  # cos(g-, running estimate before it); a basis': its span
    basis_rank: int | None = None  # independent directions removed, at most in a scope; None for 1
    estimate_bytes: int | None = None  # of memory, kept from step to step


@dataclass(frozen=True)
class Refinement:
    """The gradient to step along, and what was done to come by it."""

    gradient: tuple[Tensor, ...]  # each of its weight's shape
    diagnostics: Diagnostics
    norms: Mapping[Branch, float]  # Euclidean, of every branch's gradient; not finite where it is


class Refiner:
    """Refines the gradients of a training, step after step (the formulas are in ``rules``).

    Args:
        weights: what is trained, or the shapes of it, in the order of the gradients' tensors. By
            name, as in ``dict(model.named_parameters())``, for the scopes ``block`` and ``module``,
            which go by names.
        rule: the update rule.
        contrast: the options beside it; None: the defaults.

    Raises:
        ValueError: an option has no effect with the rule, or a scope needs names.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor | torch.Size] | Iterable[Tensor | torch.Size],
        rule: UpdateRule = "orthogonal",
        contrast: ContrastConfig | None = None,
    ) -> None:
        self._contrast = contrast = contrast or ContrastConfig()
        self._rule = rule
        require_meaning(rule, contrast)
        if not isinstance(weights, Mapping):
            if contrast.scope in ("block", "module"):
                raise ValueError(
                    f"the scope {contrast.scope} goes by the names of weights: give them by name, "
                    "as in dict(model.named_parameters())"
                )
            weights = {str(place): weight for place, weight in enumerate(weights)}
        shapes = [w.shape if isinstance(w, Tensor) else torch.Size(w) for w in weights.values()]
        self._layout = layout_of(list(weights), shapes, contrast.scope)
        self._estimate = NegativeEstimate(contrast, self._layout.size)
        needed = branches_of(rule, contrast)
        self.branches = needed.ordered
        self._negatives = needed.negatives
        self._anchor = self.branches.index(ANCHOR) if needed.anchor else None

    def __call__(
        self,
        positive: Gradient,
        *negatives: Gradient,
        anchor: Gradient | None = None,
        metric: Sequence[Tensor] | None = None,
    ) -> Refinement:
        """Refine one step's gradients, each as ``torch.autograd.grad`` gives it: a tensor a weight.

        ``metric`` is as in ``of_branches``.

        Raises:
            ValueError: a gradient that the rule needs is missing, or is not of the weights' shapes;
                or one is given that the rule does not take.
        """
        gradients = {POSITIVE: positive}
        gradients |= {Branch("negative", number): n for number, n in enumerate(negatives)}
        if anchor is not None:
            gradients[ANCHOR] = anchor
        idle = [str(branch) for branch in gradients if branch not in self.branches]
        if idle:
            raise ValueError(f"rule {self._rule!r} does not take the gradient of {', '.join(idle)}")
        return self.of_branches(gradients, metric)

    def of_branches(
        self, gradients: Mapping[Branch, Gradient], metric: Sequence[Tensor] | None = None
    ) -> Refinement:
        """Refine one step's gradients, already averaged over micro-batches and ranks.

        ``metric`` holds the diagonal weights of the projections' inner product, a positive tensor a
        trained weight; None is the Euclidean one. All sums are in float64. Where a gradient is not
        finite, its norm is not, nor is ``|g'|``, which the caller checks; ``g+`` is given back as
        it was, and nothing is kept of the step. With ``negative_every`` above 1 a step may lack the
        negatives: the running estimate stands in for them.

        Raises:
            ValueError: a branch that the rule needs is missing, or shapes are not the weights'.
        """
        layout, count = self._layout, self._negatives
        self._require_fitting(gradients)
        taken = {b: flat_vector(gradients[b], layout) for b in self.branches if b in gradients}
        if len(taken) < len(self.branches):
            nothing = torch.zeros_like(taken[POSITIVE])
            taken |= {branch: nothing for branch in self.branches if branch not in taken}
        vectors = [taken[branch] for branch in self.branches]
        negatives = vectors[1 : 1 + count]
        vectors += self._further(vectors)
        plain = inner_products(vectors, layout)
        squares = plain.diagonal(dim1=1, dim2=2).sum(dim=0)[: len(self.branches)]
        norms = squares.sqrt().tolist()
        of_all = zip(self.branches, norms, strict=True)
        by_branch = {branch: norm for branch, norm in of_all if branch in gradients}
        positive = gradients[POSITIVE]
        if not bool(squares.isfinite().all()):  # no figure but the norms means anything
            negative, anchor = _mean(norms[1 : 1 + count]), by_branch.get(ANCHOR)
            unknown = Diagnostics(norms[0], negative, anchor, None, None, 0.0, math.nan)
            return Refinement(tuple(positive), unknown, by_branch)
        products = InnerProducts(plain, plain)
        if metric is not None:
            weighted = inner_products(vectors, layout, flat_vector(metric, layout))
            products = InnerProducts(plain, weighted)

        lengths = [norm if norm > ABSENT * norms[0] else 0.0 for norm in norms[1 : 1 + count]]
        update = self._update(products, lengths)
        vector, norm_refined = combined(vectors, update.weights, layout)
        diagnostics = self._diagnostics(products, update, norm_refined)
        self._estimate.take_in(negatives, lengths)
        if self._estimate.kind != "step":
            memory = sum(row.nbytes for row in self._estimate.rows)
            diagnostics = replace(diagnostics, estimate_bytes=memory)
        if not any(branch.is_negative for branch in by_branch):
            diagnostics = replace(diagnostics, norm_negative=None)
        return Refinement(tensors_of(vector, layout, positive), diagnostics, by_branch)

    def state_tensors(self) -> dict[str, Tensor]:
        """What is kept from step to step, for a checkpoint; empty without a running estimate."""
        return self._estimate.state_tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what ``state_tensors`` gave, among other tensors or alone.

        Raises:
            ValueError: it is of another number of trained weights.
        """
        self._estimate.restore(tensors)

    def _require_fitting(self, gradients: Mapping[Branch, Gradient]) -> None:
        missing = [str(branch) for branch in self.branches if branch not in gradients]
        if self._contrast.negative_every > 1 and not any(b.is_negative for b in gradients):
            missing = [str(b) for b in self.branches if b not in gradients and not b.is_negative]
        if missing:
            raise ValueError(f"rule {self._rule!r} needs the gradient of {', '.join(missing)}")
        for branch in gradients.keys() & set(self.branches):
            # None is what autograd gives for a weight that a loss does not reach.
            shapes = tuple(None if part is None else part.shape for part in gradients[branch])
            if shapes != self._layout.shapes:
                raise ValueError(f"the shapes of the gradient of {branch} are not the weights'")

    def _further(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """The vectors beside the branches' gradients."""
        if self._rule == "released" and self._contrast.released_form == "projection":
            # Added up in the gradients' own number type, as gradients that are not set to zero are.
            return [torch.stack(list(vectors)).sum(dim=0)]
        self._estimate.rows = [row.to(vectors[0].device) for row in self._estimate.rows]
        return self._estimate.rows

    def _update(self, products: InnerProducts, lengths: Sequence[float]) -> Update:
        contrast, branches = self._contrast, len(self.branches)
        count = products.plain.shape[-1]
        if self._rule in ("none", "mean", "contrastive_target", "differential"):
            return averaged(products, branches)
        if self._rule == "released" and contrast.released_form == "mean":
            return accumulated(products, branches)
        if self._rule in ADDING:
            return weighted(products, branches, contrast.negative_weight)
        if self._rule == "preference" and contrast.margin is None:
            return weighted(products, branches, -1.0)
        conflict = conflict_of(self._rule, contrast)
        if self._rule in ("safeguarded", "preference"):
            return safeguarded(products, branches, contrast.margin or 0.0, conflict)
        if self._rule == "released":
            last = torch.eye(count, dtype=torch.float64)[-1:]
            update = without_projection(products, last, False, 1.0, "learn_from")
            update.weights[:, 0] += float(contrast.anchor)
            return update
        estimate = self._estimate.directions(lengths)
        directions = torch.zeros(len(estimate), count, dtype=torch.float64)
        directions[:, 1 : 1 + self._negatives] = estimate[:, : self._negatives]
        directions[:, branches:] = estimate[:, self._negatives :]
        unit = self._estimate.kind != "step"
        update = without_projection(products, directions, unit, contrast.strength, conflict)
        return update if self._anchor is None else with_anchor(update, products, self._anchor)

    def _diagnostics(
        self, products: InnerProducts, update: Update, norm_refined: float
    ) -> Diagnostics:
        total = products.plain.sum(dim=0)
        norms = total.diagonal().clamp(min=0.0).sqrt()
        lengths = products.metric[:, 0, 0].sqrt()  # of g+, scope by scope
        whole = float(lengths.norm())
        shares = update.removed[lengths > 0] / lengths[lengths > 0]
        negatives, anchor = range(1, 1 + self._negatives), self._anchor
        kept = len(self._estimate.rows)
        several = self._estimate.kind == "running_basis" or self._negatives > 1
        return Diagnostics(
            norm_positive=float(norms[0]),
            norm_negative=_mean([float(norms[place]) for place in negatives]),
            norm_anchor=None if anchor is None else float(norms[anchor]),
            cosine_negative=_mean([_cosine(total, norms, place) for place in negatives]),
            cosine_anchor=None if anchor is None else _cosine(total, norms, anchor),
            share_removed=min(1.0, float(update.removed.norm()) / whole) if whole else 0.0,
            norm_refined=norm_refined,
            largest_share_removed=(
                min(1.0, float(shares.max())) if len(lengths) > 1 and len(shares) else None
            ),
            cosine_estimate=_mean([_cosine_estimate(total, norms, n, kept) for n in negatives]),
            basis_rank=int(update.ranks.max()) if several else None,
        )


def _cosine(total: Tensor, norms: Tensor, place: int) -> float | None:
    """Of ``g+`` and the vector at ``place``; None where one of them is absent."""
    if norms[0] == 0 or norms[place] <= ABSENT * norms[0]:
        return None
    cosine = float(total[0, place] / (norms[0] * norms[place]))
    # Rounding may leave |cos| a few units in the last place above 1.
    return max(-1.0, min(1.0, cosine))


def _cosine_estimate(total: Tensor, norms: Tensor, negative: int, kept: int) -> float | None:
    """Of a negative and the estimate before it; of several kept vectors, of their span."""
    if kept == 0 or norms[negative] <= ABSENT * norms[0]:
        return None
    rows = slice(len(total) - kept, len(total))
    with_rows = total[rows, negative]
    if kept == 1:
        length = norms[-1]
        if length <= ABSENT_ESTIMATE:
            return None
        return max(-1.0, min(1.0, float(with_rows[0] / (length * norms[negative]))))
    present = torch.ones(1, kept, dtype=torch.bool)
    projection = project(total[None, rows, rows], with_rows[None], present, cone=False)
    return min(1.0, float(projection.lengths[0] / norms[negative]))


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
