"""What a refinement gives: the gradient to step along, and what was done to come by it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from nsync_pipeline.contrast.rules import Branch


@dataclass(frozen=True)
class Diagnostics:
    """What a refinement did; None where a branch is not there or a cosine is not defined.

    Norms and cosines are Euclidean, over all that is trained. With several negatives, those of the
    negatives are means over them.
    """

    norm_positive: float  # |g+|
    norm_negative: float | None  # |g-|
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
    """The gradient to step along."""

    gradient: tuple[Tensor, ...]  # each of its weight's shape
    diagnostics: Diagnostics
    norms: Mapping[Branch, float]  # Euclidean, of every branch's gradient; not finite where it is
