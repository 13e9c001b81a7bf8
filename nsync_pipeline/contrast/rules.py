"""The update rules by name, the branches each needs a gradient of, and how these are taken."""

from typing import Literal

UpdateRule = Literal["none", "orthogonal", "orthogonal_anchor"]

Branch = Literal["positive", "negative", "anchor"]

BranchMode = Literal["auto", "fused", "in_turn"]
"""One pass for all branches, a pass each, or the first where it fits."""

BRANCHES: dict[UpdateRule, tuple[Branch, ...]] = {
    "none": ("positive",),
    "orthogonal": ("positive", "negative"),
    "orthogonal_anchor": ("positive", "negative", "anchor"),
}
"""The branches of each rule, in the order in which they are stacked in one batch."""
