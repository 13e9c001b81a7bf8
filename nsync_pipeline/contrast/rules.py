"""The update rules by name, the branches each needs a gradient of, and how these are taken."""

from typing import Literal

from nsync_pipeline.contrast.config import ContrastConfig

UpdateRule = Literal["none", "orthogonal", "orthogonal_anchor"]

Branch = str
"""``positive``, ``negative``, ``negative_1``, ``negative_2``, ... or ``anchor``."""

BranchMode = Literal["auto", "fused", "in_turn"]
"""One pass for all branches, a pass each, or the first where it fits."""


def branches_of(rule: UpdateRule, contrast: ContrastConfig) -> tuple[Branch, ...]:
    """The branches of ``rule``, in the order in which they are stacked in one batch."""
    if rule == "none":
        return ("positive",)
    anchor = ("anchor",) if rule == "orthogonal_anchor" else ()
    return ("positive", *negative_branches(contrast.negatives), *anchor)


def negative_branches(negatives: int) -> tuple[Branch, ...]:
    """The names of so many negatives of a positive: ``negative``, ``negative_1``, ..."""
    return ("negative", *(f"negative_{number}" for number in range(1, negatives)))


def negative_number(branch: Branch) -> int | None:
    """Which of a positive's negatives ``branch`` is, from 0 on; None for another branch."""
    if branch == "negative":
        return 0
    kind, _, number = branch.partition("_")
    return int(number) if kind == "negative" else None
