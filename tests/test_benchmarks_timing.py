"""Times by turns: what disturbs the machine is seen, and no ratio is told that it made."""

from collections.abc import Callable

import pytest

from benchmarks.timing import Timing, by_turns, ratio


def test_the_spread_is_the_upper_quartile_over_the_lower() -> None:
    """Of 1, 2, 3, 4, 5 the quartiles are 2 and 4."""
    timing = Timing((5.0, 1.0, 3.0, 2.0, 4.0))
    assert (timing.median, timing.spread) == (3.0, 2.0)
    assert Timing((7.0,)).spread == 1.0


def test_a_ratio_is_taken_round_by_round() -> None:
    """A machine that becomes three times slower half-way changes no ratio."""
    a, b = Timing((2.0, 2.0, 6.0, 6.0)), Timing((1.0, 1.0, 3.0, 3.0))
    assert (a.spread, b.spread) == (3.0, 3.0)
    assert ratio(a, b) == "2.00 (1.00)"


def test_a_ratio_that_the_machine_made_is_not_told() -> None:
    a, b = Timing((1.0, 1.0, 2.0, 2.0)), Timing((1.0, 1.0, 1.0, 1.0))
    assert ratio(a, b) == "not told: spread 2.00"


def test_ways_are_taken_by_turns_after_a_warm_up_that_does_not_count() -> None:
    now, order = 0.0, []

    def way(name: str, first: float, later: float) -> Callable[[], None]:
        def take() -> None:
            nonlocal now
            now += first if name not in order else later
            order.append(name)

        return take

    ways = {"a": way("a", 9.0, 1.0), "b": way("b", 9.0, 3.0)}
    found = by_turns(ways, rounds=2, clock=lambda: now)
    assert order == ["a", "b"] * 3
    assert found["a"].values == pytest.approx((1.0, 1.0))
    assert found["b"].values == pytest.approx((3.0, 3.0))
