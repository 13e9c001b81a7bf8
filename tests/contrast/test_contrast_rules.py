"""The branches a rule needs, and the settings that mean nothing to it."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from nsync_pipeline.contrast.config import (
    ANCHOR,
    NEGATIVE,
    POSITIVE,
    SETTINGS,
    Branch,
    ContrastConfig,
    UpdateRule,
    branches_of,
    require_meaning,
)
from nsync_pipeline.training.config import TrainingConfig


def test_branches_are_stacked_positive_negatives_anchor() -> None:
    two = ContrastConfig(negatives=2)
    assert branches_of("none", two).ordered == (POSITIVE,)
    assert branches_of("orthogonal", two).ordered == (POSITIVE, NEGATIVE, Branch("negative", 1))
    assert branches_of("orthogonal_anchor", two).ordered[-1] == ANCHOR
    assert branches_of("mean", ContrastConfig()).ordered == (POSITIVE, NEGATIVE)
    anchored = ContrastConfig(anchor=True)
    assert branches_of("mean", anchored).ordered == (POSITIVE, NEGATIVE, ANCHOR)
    # It adds g+, whatever the anchor's gradient is.
    assert branches_of("released", anchored).ordered == (POSITIVE, NEGATIVE)
    mean = ContrastConfig(anchor=True, released_form="mean")
    assert branches_of("released", mean).ordered == (POSITIVE, NEGATIVE, ANCHOR)


def test_negatives_are_counted_by_the_rules_branches() -> None:
    three = ContrastConfig(negatives=3)
    assert branches_of("none", three).negatives == 0
    rules: tuple[UpdateRule, ...] = (
        "orthogonal",
        "orthogonal_anchor",
        "mean",
        "released",
        "released_mean",
    )
    for rule in rules:
        needed = branches_of(rule, three)
        assert needed.negatives == sum(branch.is_negative for branch in needed.ordered) == 3


def test_a_branch_is_written_as_it_is_drawn_and_logged() -> None:
    """These names seed the branches' draws: another one gives another training."""
    branches = branches_of("orthogonal_anchor", ContrastConfig(negatives=3)).ordered
    names = ["positive", "negative", "negative_1", "negative_2", "anchor"]
    assert [str(branch) for branch in branches] == names


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("none", {"negative_estimate": "running_mean"}),
        ("none", {"negatives": 2}),
        ("orthogonal", {"anchor": True}),
        ("mean", {"positive_part": True}),
        ("mean", {"scope": "block"}),
        ("released", {"metric": "optimizer"}),
        ("released", {"strength": 0.5}),
        ("mean", {"released_form": "mean"}),
    ],
)
def test_a_setting_without_effect_is_refused_and_named(
    rule: UpdateRule, changed: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=rf"contrast\.{next(iter(changed))} has no effect"):
        TrainingConfig(update_rule=rule, contrast=ContrastConfig(**changed))


def test_the_message_names_the_rules_that_take_the_setting() -> None:
    with pytest.raises(ValueError, match="one of mean, released"):
        require_meaning("orthogonal", ContrastConfig(anchor=True))


@pytest.mark.parametrize("rule", get_args(UpdateRule))
def test_the_defaults_suit_every_rule(rule: UpdateRule) -> None:
    assert TrainingConfig(update_rule=rule).update_rule == rule
    assert rule in SETTINGS


def test_a_setting_of_another_estimate_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"basis_size has no effect .* running_basis"):
        ContrastConfig(negative_estimate="running_mean", basis_size=4)
    with pytest.raises(ValidationError, match=r"running_decay has no effect .* running_mean"):
        ContrastConfig(running_decay=0.5)


def test_a_basis_holds_the_negatives_of_a_step() -> None:
    with pytest.raises(ValidationError, match="no room for the 4 negatives"):
        ContrastConfig(negative_estimate="running_basis", basis_size=3, negatives=4)


def test_the_optimizers_metric_needs_its_second_moments() -> None:
    contrast = ContrastConfig(metric="optimizer")
    assert TrainingConfig(contrast=contrast).optimizer == "adamw"
    with pytest.raises(ValidationError, match="set optimizer to adamw"):
        TrainingConfig(contrast=contrast, optimizer="adamw_8bit")
