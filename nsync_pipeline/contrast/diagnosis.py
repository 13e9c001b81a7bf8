"""The figures of a refinement, from the inner products of its vectors."""

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from nsync_pipeline.contrast.projection import project
from nsync_pipeline.contrast.refinement import Diagnostics
from nsync_pipeline.contrast.rules import Branch
from nsync_pipeline.contrast.update import ABSENT, ABSENT_ESTIMATE, InnerProducts, Update


def diagnostics_of(
    products: InnerProducts,
    update: Update,
    branches: Sequence[Branch],
    kept: int,
    norm_refined: float,
) -> Diagnostics:
    """What ``update`` does; the last ``kept`` vectors are of the running estimate before it."""
    total = products.plain.sum(dim=0)
    norms = total.diagonal().clamp(min=0.0).sqrt()
    lengths = products.metric[:, 0, 0].sqrt()  # of g+, scope by scope
    whole = float(lengths.norm())
    shares = update.removed[lengths > 0] / lengths[lengths > 0]
    negatives = [place for place, branch in enumerate(branches) if branch.startswith("negative")]
    anchor = branches.index("anchor") if "anchor" in branches else None
    cosines = [_cosine(total, norms, place) for place in negatives]
    return Diagnostics(
        norm_positive=float(norms[0]),
        norm_negative=_mean([float(norms[place]) for place in negatives]),
        norm_anchor=None if anchor is None else float(norms[anchor]),
        cosine_negative=_mean(cosines),
        cosine_anchor=None if anchor is None else _cosine(total, norms, anchor),
        share_removed=_at_most_one(float(update.removed.norm()) / whole) if whole else 0.0,
        norm_refined=norm_refined,
        largest_share_removed=(
            _at_most_one(float(shares.max())) if len(lengths) > 1 and len(shares) else None
        ),
        cosine_estimate=_mean([_cosine_estimate(total, norms, n, kept) for n in negatives]),
    )


def unrefined(norms: Sequence[float], branches: Sequence[Branch]) -> Diagnostics:
    """Of gradients that are not all finite: no figure but the norms means anything."""
    by_branch = dict(zip(branches, norms, strict=True))
    return Diagnostics(
        norm_positive=by_branch["positive"],
        norm_negative=_mean([n for b, n in by_branch.items() if b.startswith("negative")]),
        norm_anchor=by_branch.get("anchor"),
        cosine_negative=None,
        cosine_anchor=None,
        share_removed=0.0,
        norm_refined=float("nan"),
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
    return _at_most_one(float(projection.lengths[0] / norms[negative]))


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _at_most_one(share: float) -> float:
    return min(1.0, share)
