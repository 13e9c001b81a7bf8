"""The update rules by name, the branches each needs a gradient of, and the settings each takes.

With ``proj_b(a) = (a.b / b.b) b``:

- ``none``: ``g' = g+``
- ``orthogonal``: ``g' = g+ - proj_{g-}(g+)``
- ``orthogonal_anchor``: ``g' = g+ - proj_{g-}(g+) + proj_{ga}(g+)``
- ``mean``: ``g' = (g+ + g- [+ ga]) / n``, over the ``n`` branches
- ``released``: ``g' = g+ - proj_G(g+)``, or with the anchor ``2 g+ - proj_G(g+)``; ``G = g+ + g-``

Source: NSYNC, arXiv 2511.01517 (``orthogonal``); the anchor term as its readers implement it;
``mean`` is the authors' ablation; ``released`` is what their released loop computes, where
gradients are not set to zero between the branches and the anchor term projects ``g+`` on itself.
"""

from typing import Literal

from nsync_pipeline.contrast.config import ContrastConfig

UpdateRule = Literal["none", "orthogonal", "orthogonal_anchor", "mean", "released"]

Branch = str
"""``positive``, ``negative``, ``negative_1``, ``negative_2``, ... or ``anchor``."""

BranchMode = Literal["auto", "fused", "in_turn"]
"""One pass for all branches, a pass each, or the first where it fits."""

_PROJECTION = frozenset(
    {
        "scope", "strength", "positive_part", "metric", "negatives", "negative_prompt",
        "negative_estimate", "running_decay", "basis_size",
    }
)  # fmt: skip

SETTINGS: dict[UpdateRule, frozenset[str]] = {
    "none": frozenset(),
    "orthogonal": _PROJECTION,
    "orthogonal_anchor": _PROJECTION,
    "mean": frozenset({"negatives", "negative_prompt", "anchor"}),
    "released": frozenset({"scope", "negatives", "negative_prompt", "anchor"}),
}
"""The settings of ``training.contrast`` that have a meaning for each rule."""


def branches_of(rule: UpdateRule, contrast: ContrastConfig) -> tuple[Branch, ...]:
    """The branches of ``rule``, in the order in which they are stacked in one batch.

    ``released`` does not need the anchor's gradient in either form.
    """
    if rule == "none":
        return ("positive",)
    with_anchor = rule == "orthogonal_anchor" or (rule == "mean" and contrast.anchor)
    anchor = ("anchor",) if with_anchor else ()
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


def require_meaning(rule: UpdateRule, contrast: ContrastConfig) -> None:
    """Raise ``ValueError`` where ``contrast`` sets what has no effect with ``rule``."""
    for setting in sorted(contrast.changed() - SETTINGS[rule]):
        others = [name for name, settings in SETTINGS.items() if setting in settings]
        raise ValueError(
            f"contrast.{setting} has no effect with update_rule {rule}: leave it out here, and set "
            f"it in the variants whose rule is one of {', '.join(others)}"
        )
