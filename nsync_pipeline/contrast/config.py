"""The update rules by name, the branches each takes the gradients of, and the settings of each.

What a rule computes is in ``rules``.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from nsync_pipeline.settings import Section, later

UpdateRule = Literal["none", "orthogonal", "orthogonal_anchor", "mean", "released"]

BranchMode = Literal["auto", "fused", "in_turn"]
"""One pass for all branches, a pass each, or the first where it fits."""

Scope = Literal["global", "block", "module", "tensor"]

NegativeEstimateKind = Literal["step", "running_mean", "running_basis"]


class ContrastConfig(Section):
    """The options beside an update rule: ``training.contrast`` in params.yaml.

    ``metric`` and ``negative_prompt`` tell a training what to compute; ``Refiner`` is given it.
    """

    scope: Scope = Field(
        default="global",
        description="what is projected as one vector: all that is trained, each block, each "
        "adapted module (a LoRA's A and B together), or each tensor",
    )
    strength: float = Field(default=1.0, gt=0, le=1, description="share of the projection removed")
    positive_part: bool = Field(
        default=False,
        description="remove only what the positive shares with the negatives: where g+·g- > 0",
    )
    metric: Literal["euclidean", "optimizer"] = Field(
        default="euclidean",
        description="inner product of the projections; optimizer: weighted by 1 / (sqrt(v) + eps) "
        "of Adam's second moment, so that the step itself is orthogonal to g-",
    )
    negatives: int = Field(
        default=1,
        ge=1,
        le=16,
        description="negatives of a positive, each a branch; their span is projected out",
    )
    negative_prompt: Literal["same", "not_in_style"] = Field(
        default="same",
        description="of the negative branch: the positive's, or `{caption} not in the style of "
        "{placeholder}`",
    )
    anchor: bool = Field(
        default=False, description="the form with the anchor of the rules mean and released"
    )
    released_form: Literal["projection", "mean"] = later(
        "projection",
        description="of the rule released: which of the authors' versions, the projection or the "
        "mean, each as their loop computes it",
    )
    negative_estimate: NegativeEstimateKind = Field(
        default="step",
        description="what is projected out: the step's own g-, the running mean of its direction, "
        "or the span of the most recent ones",
    )
    running_decay: float = Field(
        default=0.9, gt=0, lt=1, description="of running_mean: the past's weight in each step"
    )
    basis_size: int = Field(
        default=8, ge=1, le=64, description="of running_basis: negative gradients kept"
    )

    @model_validator(mode="after")
    def _estimates_settings_belong_to_it(self) -> "ContrastConfig":
        if self.released_form == "mean" and self.scope != "global":
            raise ValueError("scope has no effect with released_form mean: leave it out")
        kinds = {"running_decay": "running_mean", "basis_size": "running_basis"}
        for field, kind in kinds.items():
            if self.negative_estimate != kind and field in self.changed():
                raise ValueError(
                    f"{field} has no effect with negative_estimate {self.negative_estimate}: "
                    f"leave it out, or set negative_estimate to {kind}"
                )
        if self.negative_estimate == "running_basis" and self.basis_size < self.negatives:
            raise ValueError(
                f"basis_size {self.basis_size} has no room for the {self.negatives} negatives of "
                "one step: raise it, or lower negatives"
            )
        return self

    def changed(self) -> frozenset[str]:
        """The settings that differ from their defaults."""
        fields = type(self).model_fields.items()
        return frozenset(name for name, field in fields if getattr(self, name) != field.default)


@dataclass(frozen=True)
class Branch:
    """One of the losses of a step whose gradient is taken."""

    kind: Literal["positive", "negative", "anchor"]
    number: int = 0  # of a negative: which of its positive's, from 0 on

    def __str__(self) -> str:
        """``positive``, ``negative``, ``negative_1``, ``negative_2``, ... or ``anchor``."""
        return f"{self.kind}_{self.number}" if self.number else self.kind

    @property
    def is_negative(self) -> bool:
        """Whether it is a negative, whichever."""
        return self.kind == "negative"


POSITIVE, NEGATIVE, ANCHOR = Branch("positive"), Branch("negative"), Branch("anchor")


@dataclass(frozen=True)
class Branches:
    """The branches that a rule takes the gradients of."""

    negatives: int  # of a positive
    anchor: bool

    @property
    def ordered(self) -> tuple[Branch, ...]:
        """All of them, in the order in which they are stacked in one batch."""
        negatives = (Branch("negative", number) for number in range(self.negatives))
        return (POSITIVE, *negatives, *((ANCHOR,) if self.anchor else ()))


def branches_of(rule: UpdateRule, contrast: ContrastConfig) -> Branches:
    """The branches of ``rule``; ``released`` takes the anchor's gradient for a mean alone."""
    if rule == "none":
        return Branches(0, anchor=False)
    takes_mean = rule == "mean" or (rule == "released" and contrast.released_form == "mean")
    anchor = rule == "orthogonal_anchor" or (takes_mean and contrast.anchor)
    return Branches(contrast.negatives, anchor)


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
    "released": frozenset({"scope", "negatives", "negative_prompt", "anchor", "released_form"}),
}
"""The settings of ``training.contrast`` that have a meaning for each rule."""


def require_meaning(rule: UpdateRule, contrast: ContrastConfig) -> None:
    """Raise ``ValueError`` where ``contrast`` sets what has no effect with ``rule``."""
    for setting in sorted(contrast.changed() - SETTINGS[rule]):
        others = [name for name, settings in SETTINGS.items() if setting in settings]
        raise ValueError(
            f"contrast.{setting} has no effect with update_rule {rule}: leave it out here, and set "
            f"it in the variants whose rule is one of {', '.join(others)}"
        )
