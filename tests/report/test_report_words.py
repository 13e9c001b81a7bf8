from dataclasses import replace

import pytest

from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.verdict import Comparison, Verdict
from nsync_pipeline.report.figures import digits_for, percent, shown
from nsync_pipeline.report.words import (
    difference,
    explained,
    headline,
    leader,
    way_of_training,
    way_to_real,
    what_is_compared,
)
from nsync_pipeline.training.config import TrainingConfig

NEARER = Comparison(
    a="nsync",
    b="lora",
    style_margin=Interval(0.02, 0.01, 0.03),
    cmmd=Interval(-0.5, -0.8, -0.2),
    p_style_margin=0.001,
    p_cmmd=0.001,
    a_breaks=(),
    b_breaks=(),
    verdict="better",
)


def against_base(name: str, verdict: Verdict, breaks: tuple[str, ...] = ()) -> Comparison:
    return replace(NEARER, a=name, b="base", verdict=verdict, a_breaks=breaks)


def test_headline_says_who_took_on_the_style_and_who_is_ahead() -> None:
    both = [against_base("lora", "better"), against_base("nsync", "better")]
    assert headline(both, [NEARER], {"lora": 0.8, "nsync": 0.9}) == (
        "Both checkpoints took on the style. Between them, nsync beats lora."
    )


def test_headline_does_not_call_a_small_step_the_style() -> None:
    both = [against_base("lora", "better"), against_base("nsync", "better")]
    assert headline(both, [], {"lora": 0.08, "nsync": 0.05}) == (
        "Both checkpoints moved towards the style, but not half of the way."
    )
    assert headline(both, [], {"lora": 0.08, "nsync": 0.5}) == (
        "Of 2 checkpoints, nsync took on the style. lora moved towards it, but not half of the way."
    )


LEARNED = [against_base(name, "better") for name in "abc"]
SHARES = dict.fromkeys("abc", 0.9)


def test_headline_ranks_checkpoints_that_are_all_told_apart() -> None:
    """c beats b and a, b beats a: one verdict is given the other way round."""
    pairs = [
        replace(NEARER, a="b", b="a"),
        replace(NEARER, a="a", b="c", verdict="worse"),
        replace(NEARER, a="c", b="b"),
    ]
    assert headline(LEARNED, pairs, SHARES).endswith("Of them, c is best, then b, then a.")
    open_end = [pairs[0], replace(pairs[1], verdict="inconclusive"), pairs[2]]
    assert headline(LEARNED, open_end, SHARES).endswith(
        "Between them, b beats a and c beats b; the rest cannot be told apart."
    )


def test_headline_makes_no_order_of_a_circle() -> None:
    circle = [replace(NEARER, a=a, b=b) for a, b in ("ab", "bc", "ca")]
    assert headline(LEARNED, circle, SHARES).endswith(
        "Between them, a beats b, b beats c and c beats a."
    )


def test_headline_turns_a_worse_checkpoint_round() -> None:
    found = [replace(NEARER, a="a", b="b", verdict="worse")]
    assert headline(LEARNED[:2], found, SHARES).endswith("Between them, b beats a.")


def test_headline_claims_nothing_it_cannot_tell() -> None:
    found = [replace(NEARER, a="a", b="b", verdict="inconclusive")]
    assert headline(LEARNED[:2], found, SHARES) == (
        "Both checkpoints took on the style. Which of them is best cannot be told."
    )


def test_what_nobody_could_see_is_no_order() -> None:
    same = replace(
        NEARER, a="b", b="a", verdict="as good", seen_style_margin=0.05, seen_cmmd=1.0
    )  # fmt: skip
    assert headline(LEARNED[:2], [same], SHARES).endswith(
        "They are as good as each other: nobody could see a difference."
    )
    others = [replace(NEARER, a="c", b=name) for name in "ab"]
    assert headline(LEARNED, [same, *others], SHARES).endswith(
        "Between them, c beats a, c beats b and b is as good as a."
    )
    assert explained(same) == "By both measures they differ by less than anyone could see."
    assert explained(replace(same, verdict="worse", a_breaks=("content_recognised",))) == (
        "By both measures they differ by less than anyone could see, but b shows less of what the "
        "captions ask for."
    )
    assert [leader("abc", found) for found in ([same], [same, *others])] == ["a", "c"]


def test_headline_makes_no_order_of_checkpoints_that_learned_nothing() -> None:
    none = [against_base("lora", "inconclusive"), against_base("nsync", "better")]
    assert headline(none, [NEARER], {"lora": 0.9, "nsync": 0.01}) == (
        "None of the checkpoints measurably took on the style."
    )


def test_headline_names_those_that_took_on_the_style() -> None:
    some = [
        against_base("lora", "inconclusive"),
        against_base("nsync", "trade-off", breaks=("copy_rate",)),
        against_base("anchor", "better"),
    ]
    shares = {"lora": 0.9, "nsync": 0.9, "anchor": 0.9}
    assert headline(some, [], shares) == "Of 3 checkpoints, nsync and anchor took on the style."


def test_a_trade_off_between_the_measures_is_not_learning_the_style() -> None:
    assert headline([against_base("lora", "trade-off")], [], {"lora": 0.9}) == (
        "The checkpoint did not measurably take on the style."
    )


def test_reason_of_an_inconclusive_verdict_names_the_one_measure_that_tells() -> None:
    found = replace(NEARER, verdict="inconclusive", p_cmmd=0.2)
    assert explained(found) == (
        "Only one of the two measures, the style margin, tells them apart beyond chance."
    )
    assert explained(replace(found, p_style_margin=0.6)).startswith("Neither measure")


def test_reason_of_a_trade_off_names_its_price() -> None:
    found = replace(NEARER, verdict="trade-off", a_breaks=("prompt_fidelity", "diversity"))
    assert explained(found) == (
        "nsync is nearer to the style than lora, but it shows less of what the captions ask for "
        "and is further from the variety of real pictures."
    )


def test_reason_of_a_trade_off_of_the_other_checkpoint_names_that_one() -> None:
    behind = replace(
        NEARER, style_margin=Interval(-0.02), cmmd=Interval(0.5), verdict="trade-off",
        b_breaks=("copy_rate",),
    )  # fmt: skip
    assert explained(behind) == (
        "lora is nearer to the style than nsync, but it repeats training pictures more often."
    )


def test_measures_that_disagree_are_a_trade_off_whatever_the_guardrails_say() -> None:
    split = replace(NEARER, cmmd=Interval(0.5), verdict="trade-off", a_breaks=("copy_rate",))
    assert explained(split) == "The two measures point to different checkpoints."


def test_difference_is_signed_and_has_its_interval() -> None:
    assert difference(Interval(0.02, -0.01, 0.031)) == "+0.0200 (−0.0100 to +0.0310)"
    assert difference(Interval(1.5)) == "+1.50"


def test_way_to_real_is_linear_between_base_and_real() -> None:
    """From -0.2 to 0.2, 0.1 is three quarters of the way."""
    assert way_to_real(0.1, base=-0.2, real=0.2) == pytest.approx(0.75)
    assert way_to_real(0.1, base=0.2, real=0.2) is None


@pytest.mark.parametrize(
    ("values", "digits"),
    [([123.4], 0), ([12.3, 0.001], 1), ([1.0], 2), ([0.0123], 4), ([0.0], 2), ([], 2), ([1e-9], 6)],
)
def test_as_many_digits_as_tell_something(values: list[float], digits: int) -> None:
    assert digits_for(values) == digits


def test_minus_is_a_true_minus_and_zero_has_no_sign() -> None:
    assert shown(-1.25, 1) == "−1.2"
    assert shown(-0.004, 2) == "0.00"
    assert shown(0.0, 1, signed=True) == "0.0"
    assert shown(2.0, 1, signed=True) == "+2.0"
    assert percent(0.416) == "42 %"


@pytest.mark.parametrize(
    ("trainings", "called"), [(1, "checkpoint"), (2, "variant"), (3, "method")]
)
def test_what_is_compared_has_its_name(trainings: int, called: str) -> None:
    both = [
        replace(against_base(name, "better"), trainings=trainings) for name in ("lora", "nsync")
    ]
    pair = replace(NEARER, trainings=trainings)
    assert headline(both, [pair], {"lora": 0.8, "nsync": 0.9}) == (
        f"Both {called}s took on the style. Between them, nsync beats lora."
    )


def test_what_could_turn_the_order_round() -> None:
    neither = replace(NEARER, verdict="inconclusive", p_style_margin=0.2, p_cmmd=0.2)
    assert explained(neither).endswith("other captions could turn the order round.")
    assert explained(replace(neither, trainings=3)).endswith(
        "other captions or training seeds could turn the order round."
    )


def test_only_three_trainings_each_are_said_to_compare_methods() -> None:
    said = [what_is_compared(trainings) for trainings in (1, 2, 3)]
    assert [("not methods" in text, "compares methods" in text) for text in said] == [
        (True, False), (True, False), (False, True),
    ]  # fmt: skip
    assert "trained two times" in said[1]


def test_a_variants_way_of_training_names_the_options_that_are_on() -> None:
    plain = TrainingConfig(update_rule="orthogonal")
    extended = TrainingConfig(
        update_rule="orthogonal",
        shared_noise=True,
        content_dropout=0.3,
        contrast=ContrastConfig(positive_part=True),
    )

    assert way_of_training(plain.model_dump()) == "less the negatives' direction"
    every_4 = TrainingConfig(
        update_rule="orthogonal",
        contrast=ContrastConfig(negative_every=4, negative_estimate="running_mean"),
    )
    assert way_of_training(every_4.model_dump()) == (
        "less the negatives' direction, negatives in one of 4 steps"
    )
    assert way_of_training(extended.model_dump()) == (
        "less the negatives' direction, shared noise, positive part, content dropout"
    )
