"""The branches a rule needs, the settings that mean nothing to it, and vectors by hand."""

import math
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from nsync_pipeline.contrast import rules
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
from nsync_pipeline.contrast.refiner import Refiner
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
    with_negatives: tuple[UpdateRule, ...] = (
        "orthogonal", "orthogonal_anchor", "mean", "released", "safeguarded", "slider",
    )  # fmt: skip
    for rule in with_negatives:
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


POSITIVE_GRADIENT = (2.0, -1.0, 3.0)  # |g+|^2 = 14
SHARED = (-1.0, -2.0, 2.0)  # g+.g- = 6, |g-|^2 = 9: the projection is 2/3 of it, cos^2 = 2/7
OPPOSED = (1.0, 2.0, -2.0)  # the same, negative

BY_HAND: list[tuple[UpdateRule, dict[str, Any], tuple[float, ...], tuple[float, ...]]] = [
    # 3/2 of the projection: the negative itself.
    ("orthogonal", {"strength": 1.5, "conflict": "leave"}, SHARED, (3, 1, 1)),
    # At most 1 / cos^2 = 7/2 of it, where g'.g+ = 0.
    ("orthogonal", {"strength": 99.0, "conflict": "leave"}, SHARED, (13 / 3, 11 / 3, -5 / 3)),
    ("orthogonal", {"conflict": "learn_from"}, OPPOSED, (8 / 3, 1 / 3, 5 / 3)),
    ("orthogonal", {"conflict": "leave"}, OPPOSED, (2, -1, 3)),
    ("orthogonal", {"conflict": "push_away"}, OPPOSED, (4 / 3, -7 / 3, 13 / 3)),
    # (1 - 1/2) 14 / 6 = 7/6: all of the negative. A margin of 3/4 leaves 7/12 of it, g'.g+ = 21/2.
    ("safeguarded", {"margin": 0.5}, SHARED, (3, 1, 1)),
    ("safeguarded", {"margin": 0.75}, SHARED, (31 / 12, 1 / 6, 11 / 6)),
    ("safeguarded", {"margin": 0.75}, OPPOSED, (1, -3, 5)),
    ("safeguarded", {"margin": 0.75, "conflict": "leave"}, OPPOSED, (2, -1, 3)),
    ("safeguarded", {"margin": 0.75, "conflict": "learn_from"}, OPPOSED, (8 / 3, 1 / 3, 5 / 3)),
    ("preference", {}, OPPOSED, (1, -3, 5)),
    ("preference", {"margin": 0.75}, SHARED, (31 / 12, 1 / 6, 11 / 6)),
    ("prior_preservation", {"negative_weight": 0.5}, OPPOSED, (2.5, 0, 2)),
    ("class_preservation", {"negative_weight": 0.5}, OPPOSED, (2.5, 0, 2)),
    ("slider", {"negative_weight": 0.5}, OPPOSED, (2.5, 0, 2)),
    ("negative_aware", {"negative_weight": 0.5}, OPPOSED, (2.5, 0, 2)),
]


def vector(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("rule", "contrast", "negative", "expected"), BY_HAND)
def test_a_rule_gives_what_was_worked_out_by_hand(
    rule: UpdateRule,
    contrast: dict[str, Any],
    negative: tuple[float, ...],
    expected: tuple[float, ...],
) -> None:
    positive = vector(POSITIVE_GRADIENT)
    refiner = Refiner([positive.shape], rule, ContrastConfig(**contrast))
    found = refiner((positive,), (vector(negative),)).gradient[0]
    torch.testing.assert_close(found, vector(expected))


@pytest.mark.parametrize("rule", ["contrastive_target", "differential"])
def test_where_the_negatives_enter_elsewhere_nothing_is_refined(rule: UpdateRule) -> None:
    positive = vector(POSITIVE_GRADIENT)
    found = Refiner([positive.shape], rule)((positive,)).gradient[0]
    assert torch.equal(found, positive)


def test_losses_by_hand() -> None:
    """``-log sigma(0) = ln 2``; margins of 1/2 weigh 1/5 at ``beta = 2 ln 4 / (1/2)``."""
    loss = rules.preference_loss(vector((0.0,)), vector((2.0,)), beta=4.0, supervised=0.5)
    assert float(loss) == pytest.approx(math.log(2) + 1.0)
    beta = rules.automatic_beta(0.5, numbers=256)
    assert beta == pytest.approx(4 * math.log(4))
    assert torch.sigmoid(torch.tensor(-beta / 2 * 0.5)).item() == pytest.approx(0.2)
    assert rules.automatic_beta(0.0, numbers=256) == 256.0
    assert rules.automatic_beta(100.0, numbers=256) == 0.256
    assert rules.running_size(None, vector((-1.0, 3.0))) == 2.0
    assert rules.running_size(1.0, vector((-1.0, 3.0))) == pytest.approx(1.01)
    own, other = vector((3.0,)), vector((2.0,))
    assert rules.contrastive_target_loss(own, other, repulsion=0.5).item() == 2.0
    base = vector((1.0,))
    assert rules.mirrored_prediction(own, base, beta=0.5, negative=False).item() == 2.0
    assert rules.mirrored_prediction(own, base, beta=0.5, negative=True).item() == 0.0
