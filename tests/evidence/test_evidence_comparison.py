"""The arithmetic of the benchmark, on results made up here."""

from typing import Any

import pytest

from benchmarks.evidence.comparison import (
    CONTENT,
    LEAK,
    STYLE,
    Trials,
    differences,
    measure,
)
from benchmarks.evidence.matrix import ORDINARY
from benchmarks.evidence.results import Result


def made_up(
    method: str,
    seed: int,
    style: list[float],
    content: list[float] | None = None,
    leak: list[float] | None = None,
    of: str = "night",
    world: str = "woodblock",
) -> Result:
    pictures = {STYLE: style, CONTENT: content or [1.0] * len(style)}
    pictures |= {} if leak is None else {LEAK: leak}
    return Result(world, of, method, seed, 0.003, 1.0, ORDINARY, "settings", pictures, {}, {}, {})


def of_method(method: str, *styles: list[float], **others: Any) -> list[Result]:
    return [made_up(method, seed, style, **others) for seed, style in enumerate(styles)]


def test_a_measure_is_the_mean_over_styles_of_the_mean_over_seeds_and_prompts() -> None:
    # Woodblock: (.2 + .4 + .6 + .8) / 4 = .5 over two seeds; mosaic: .9 over one. Mean .7.
    trials = Trials.of(
        [
            *of_method("lora", [0.2, 0.4], [0.6, 0.8]),
            made_up("lora", 0, [0.9, 0.9], world="mosaic"),
        ]
    )

    found = measure(trials, "night", "lora", STYLE, trials.seeds("night", "lora"))

    assert found is not None
    assert found.value == pytest.approx(0.7)


def test_the_interval_of_equal_values_is_a_point() -> None:
    trials = Trials.of(of_method("lora", *[[0.25, 0.25, 0.25]] * 5))

    found = measure(trials, "night", "lora", STYLE, trials.seeds("night", "lora"))

    assert found is not None
    assert found.interval.low == pytest.approx(0.25)
    assert found.interval.high == pytest.approx(0.25)


def test_seeds_that_differ_widen_the_interval_beyond_their_range() -> None:
    """Five seeds .1 .. .5, prompts alike: mean .3, deviation .158, Student's half-width

    t(4) .158 / sqrt(5) = 2.776 x .0707 = .196.
    """
    trials = Trials.of(of_method("lora", *[[value] * 4 for value in (0.1, 0.2, 0.3, 0.4, 0.5)]))

    found = measure(trials, "night", "lora", STYLE, trials.seeds("night", "lora"))

    assert found is not None
    low, high = found.interval.low, found.interval.high
    assert low is not None
    assert high is not None
    assert low == pytest.approx(0.3 - 0.196, abs=0.03)
    assert high == pytest.approx(0.3 + 0.196, abs=0.03)


def test_a_difference_is_paired_over_seeds_and_prompts() -> None:
    """The methods vary together by far more than they differ: .1 everywhere, with certainty."""
    base = [[0.1, 0.8], [0.5, 0.2], [0.3, 0.6]]
    trials = Trials.of(
        [
            *of_method("lora", *base),
            *of_method("nsync", *[[value + 0.1 for value in seed] for seed in base]),
        ]
    )

    (found,) = differences(trials, [("night", "nsync", "lora")])

    assert found.style.value == pytest.approx(0.1)
    assert found.style.interval.low == pytest.approx(0.1)
    assert found.verdict == "better"


def test_only_seeds_that_both_have_are_compared() -> None:
    trials = Trials.of([*of_method("lora", [0.1], [0.2]), *of_method("nsync", [0.3], [0.4], [0.9])])

    (found,) = differences(trials, [("night", "nsync", "lora")])

    assert found.trainings == 2
    assert found.style.value == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("content", "leak", "verdict"),
    [
        ([0.96] * 2, [0.0] * 2, "better"),
        ([0.9] * 2, [0.0] * 2, "trade-off"),  # .10 of content lost
        ([1.0] * 2, [0.1] * 2, "trade-off"),  # .10 of leak added
        ([1.0] * 2, [0.04] * 2, "better"),
    ],
)
def test_style_at_a_price_is_a_trade_off(
    content: list[float], leak: list[float], verdict: str
) -> None:
    trials = Trials.of(
        [
            *of_method("lora", *[[0.1, 0.1]] * 3, content=[1.0] * 2, leak=[0.0] * 2),
            *of_method("nsync", *[[0.9, 0.9]] * 3, content=content, leak=leak),
        ]
    )

    (found,) = differences(trials, [("night", "nsync", "lora")])

    assert found.verdict == verdict


def test_a_method_that_lost_its_style_is_worse() -> None:
    trials = Trials.of(
        [*of_method("lora", *[[0.9, 0.8]] * 3), *of_method("nsync", *[[0.2, 0.1]] * 3)]
    )

    (found,) = differences(trials, [("night", "nsync", "lora")])

    assert found.verdict == "worse"


@pytest.mark.parametrize(
    ("content", "verdict"),
    [(0.3, "loses content"), (1.0, "keeps more content"), (0.66, "cannot be told apart")],
)
def test_where_the_style_is_the_same_the_content_decides(content: float, verdict: str) -> None:
    trials = Trials.of(
        [
            *of_method("lora", *[[0.9, 0.8]] * 3, content=[0.7] * 2),
            *of_method("nsync", *[[0.8, 0.9]] * 3, content=[content] * 2),
        ]
    )

    (found,) = differences(trials, [("night", "nsync", "lora")])

    assert found.verdict == verdict


def test_chance_tells_no_methods_apart() -> None:
    trials = Trials.of(
        [
            *of_method("lora", [0.4, 0.6], [0.5, 0.5], [0.6, 0.4]),
            *of_method("nsync", [0.6, 0.5], [0.4, 0.6], [0.6, 0.4]),
        ]
    )

    (found,) = differences(trials, [("night", "nsync", "lora")])

    assert found.verdict == "cannot be told apart"


def test_a_plain_set_has_no_leak() -> None:
    trials = Trials.of(
        [made_up("lora", 0, [0.1], of="plain"), made_up("nsync", 0, [0.2], of="plain")]
    )

    (found,) = differences(trials, [("plain", "nsync", "lora")])

    assert found.leak is None
