"""The update rules by name, the branches each takes the gradients of, and the settings of each.

What a rule computes is in ``rules``.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from nsync_pipeline.settings import Section, later

UpdateRule = Literal[
    "none", "orthogonal", "orthogonal_anchor", "mean", "released", "safeguarded", "preference",
    "prior_preservation", "class_preservation", "contrastive_target", "slider", "negative_aware",
    "differential",
]  # fmt: skip

Conflict = Literal["learn_from", "leave", "push_away"]
"""What is done with the negatives where ``<g+, g->`` is negative: the positives ask for the
opposite of what they do."""

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
    strength: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="share of the projection removed; above 1 the negatives are pushed away, at "
        "most so far as does not raise the positives' loss; then `conflict` is to be said",
    )
    positive_part: bool = Field(
        default=False,
        description="remove only what the positive shares with the negatives: where g+·g- > 0; "
        "the same as `conflict: leave`",
    )
    conflict: Conflict | None = later(
        None,
        description="what is done where g+·g- < 0; null: learn_from, as removing the projection "
        "does; in safeguarded and preference push_away",
    )
    margin: float | None = later(
        None,
        ge=0,
        le=1,
        description="of safeguarded and preference: at least this share of the positives' descent "
        "is kept; null: 0 in safeguarded, no safeguard in preference",
    )
    negative_weight: float = later(
        1.0, ge=0, le=1000, description="of the negatives' loss, where a rule adds it"
    )
    beta: float | None = later(
        None,
        gt=0,
        le=1e6,
        description="of preference: how soon a pair counts as told apart; null: automatic, from "
        "the running size of the margins",
    )
    supervised: float = later(
        1.0, ge=0, le=1000, description="of preference: weight of the plain loss beside it"
    )
    repulsion: float = later(
        0.05, ge=0, lt=1, description="of contrastive_target: weight of the distance to x-'s target"
    )
    mirror: float = later(
        1.0, gt=0, le=10, description="of negative_aware: beta, how far predictions are mirrored"
    )
    negative_every: int = later(
        1,
        ge=1,
        le=1000,
        description="the negatives' gradient is taken in every so-manieth step; the running "
        "estimate stands in between",
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
    negative_prompt: Literal["same", "not_in_style", "generic"] = Field(
        default="same",
        description="of the negative branch: the positive's, `{caption} not in the style of "
        "{placeholder}`, or the one it was drawn for, `{caption} in the style of {generic_style}`",
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

    @model_validator(mode="after")
    def _a_conflict_is_settled_once(self) -> "ContrastConfig":
        if self.positive_part and self.conflict is not None:
            raise ValueError("positive_part is conflict: leave; set one of them")
        if self.strength > 1 and self.conflict is None and not self.positive_part:
            raise ValueError(
                f"strength {self.strength:g} pushes the negatives away: say by conflict what is "
                "done where g+·g- < 0 (push_away, leave or learn_from)"
            )
        if self.negative_every > 1 and self.negative_estimate == "step":
            raise ValueError(
                "negative_every needs an estimate that stands in between: set negative_estimate to "
                "running_mean or running_basis"
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
    pictures: int  # negative pictures read of a positive; a rule may read one without a branch

    @property
    def ordered(self) -> tuple[Branch, ...]:
        """All of them, in the order in which they are stacked in one batch."""
        negatives = (Branch("negative", number) for number in range(self.negatives))
        return (POSITIVE, *negatives, *((ANCHOR,) if self.anchor else ()))


def branches_of(rule: UpdateRule, contrast: ContrastConfig) -> Branches:
    """The branches of ``rule``; ``released`` takes the anchor's gradient for a mean alone."""
    if rule == "none":
        return Branches(0, anchor=False, pictures=0)
    # A negative enters the positive's target, or what is trained before.
    if rule in ("contrastive_target", "differential"):
        return Branches(0, anchor=False, pictures=1)
    if rule == "class_preservation":  # its second branch is of the positive pictures
        return Branches(1, anchor=False, pictures=0)
    takes_mean = rule == "mean" or (rule == "released" and contrast.released_form == "mean")
    anchor = rule == "orthogonal_anchor" or (takes_mean and contrast.anchor)
    return Branches(contrast.negatives, anchor, pictures=contrast.negatives)


def conflict_of(rule: UpdateRule, contrast: ContrastConfig) -> Conflict:
    """What ``rule`` does where ``<g+, g->`` is negative."""
    if contrast.positive_part:
        return "leave"
    own: Conflict = "push_away" if rule in ("safeguarded", "preference") else "learn_from"
    return contrast.conflict or own


BY_BASE: frozenset[UpdateRule] = frozenset({"preference", "class_preservation", "negative_aware"})
"""The rules that ask the frozen base for predictions, too."""

GENERIC: frozenset[UpdateRule] = frozenset({"prior_preservation", "class_preservation"})
"""The rules whose second branch is always at the generic prompt."""

MIRRORED: frozenset[UpdateRule] = frozenset({"slider"})
"""The rules whose negatives' loss is taken at the mirrored weights."""

ON_TOP: frozenset[UpdateRule] = frozenset({"differential"})
"""The rules that train on top of a LoRA which learned the negatives before."""

_PROJECTION = frozenset(
    {
        "scope", "strength", "positive_part", "metric", "negatives", "negative_prompt",
        "negative_estimate", "running_decay", "basis_size", "conflict", "negative_every",
    }
)  # fmt: skip

SETTINGS: dict[UpdateRule, frozenset[str]] = {
    "none": frozenset(),
    "orthogonal": _PROJECTION,
    "orthogonal_anchor": _PROJECTION,
    "mean": frozenset({"negatives", "negative_prompt", "anchor"}),
    "released": frozenset({"scope", "negatives", "negative_prompt", "anchor", "released_form"}),
    "safeguarded": frozenset(
        {"scope", "metric", "negatives", "negative_prompt", "margin", "conflict"}
    ),
    "preference": frozenset({"beta", "supervised", "margin", "conflict", "negative_prompt"}),
    "prior_preservation": frozenset({"negatives", "negative_weight"}),
    "class_preservation": frozenset({"negative_weight"}),
    "contrastive_target": frozenset({"repulsion"}),
    "slider": frozenset({"negatives", "negative_weight", "negative_prompt"}),
    "negative_aware": frozenset({"negatives", "negative_weight", "negative_prompt", "mirror"}),
    "differential": frozenset({"negative_prompt"}),
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
    if rule == "preference" and contrast.margin is None and contrast.conflict is not None:
        raise ValueError(
            "contrast.conflict has no effect with update_rule preference without a margin, whose "
            "negatives are always pushed away: leave it out, or set contrast.margin"
        )
