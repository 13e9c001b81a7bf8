"""Style against content as a curve: the area under it, its scales, and what is chosen of it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsync_pipeline.metrics.curves import (
    Scale,
    Standing,
    area_under,
    chosen,
    content_scale,
    halves,
    mismatched_fidelity,
    style_scale,
)

SHARE = st.floats(0.0, 1.0)
POINTS = st.lists(st.tuples(SHARE, SHARE), min_size=1, max_size=8)  # (content, style)


def area(points: list[tuple[float, float]]) -> float:
    content, style = np.array(points).T
    return float(area_under(style, content))


def by_definition(points: list[tuple[float, float]]) -> float:
    """The integral over contents, between any two of which the maximum does not change."""
    edges = sorted({0.0, 1.0, *(content for content, _ in points)})
    total = 0.0
    for low, high in itertools.pairwise(edges):
        reach = [style for content, style in points if content >= high]
        total += (high - low) * max(reach, default=0.0)
    return total


@given(POINTS)
def test_the_area_is_the_integral_that_defines_it(points: list[tuple[float, float]]) -> None:
    assert area(points) == pytest.approx(by_definition(points), abs=1e-12)
    assert 0.0 <= area(points) <= 1.0 + 1e-12


def test_the_area_of_two_points_by_hand() -> None:
    """Up to content 0.5 the first shows the most, 0.8; from there to 1 the second, 0.4."""
    assert area([(0.5, 0.8), (1.0, 0.4)]) == pytest.approx(0.5 * 0.8 + 0.5 * 0.4)


@given(POINTS, SHARE, SHARE)
def test_a_dominated_point_changes_nothing(
    points: list[tuple[float, float]], less_content: float, less_style: float
) -> None:
    content, style = points[-1]
    dominated = (content * less_content, style * less_style)
    assert area([*points, dominated]) == pytest.approx(area(points), abs=1e-12)


@given(POINTS, st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_matters(points: list[tuple[float, float]], random) -> None:  # type: ignore[no-untyped-def]
    others = [*points, points[0]]
    random.shuffle(others)
    assert area(others) == pytest.approx(area(points), abs=1e-12)


@given(POINTS, st.tuples(SHARE, SHARE))
def test_one_point_more_never_takes_away(
    points: list[tuple[float, float]], more: tuple[float, float]
) -> None:
    assert area([*points, more]) >= area(points) - 1e-12
    assert area([*points, more]) >= more[0] * more[1] - 1e-12


def test_many_curves_at_once_are_each_its_own() -> None:
    content, style = np.random.default_rng(0).random((2, 5, 4))
    each = [float(area_under(style[row], content[row])) for row in range(5)]
    assert area_under(style, content) == pytest.approx(each)


def test_shares_run_from_the_floor_to_the_top_and_no_further() -> None:
    scale = Scale("style_margin", floor=-0.2, top=0.2)
    assert scale.shares(np.array([-0.3, -0.2, 0.1, 0.2, 0.5])) == pytest.approx([0, 0, 0.75, 1, 1])
    assert scale.is_defined
    assert not Scale("style_margin", 0.1, 0.1).is_defined


def test_scales_are_of_what_a_judge_sees_where_there_is_one() -> None:
    base = {"style_margin": -0.1, "prompt_fidelity": 30.0}
    real = {"style_margin": 0.2, "prompt_fidelity": 28.0}
    assert style_scale(base, real) == Scale("style_margin", -0.1, 0.2)
    # No more content is asked for than real pictures have.
    assert content_scale(base, real, mismatched=20.0) == Scale("prompt_fidelity", 20.0, 28.0)
    judged = {**base, "style_recognised": 0.0, "content_recognised": 0.9}
    assert style_scale(judged, real) == Scale("style_recognised", 0.0, 1.0)
    assert content_scale(judged, real, 20.0) == Scale("content_recognised", 0.0, 1.0)


def test_mismatched_pictures_are_those_of_other_captions() -> None:
    """Two pictures of the first caption, one of the second: pairs (0, 2), (1, 2), (2, 0), (2, 1).

    Their cosines are 0.6, 0, 0 and 0.
    """
    pictures = np.array([[0.8, 0.6], [1.0, 0.0], [0.0, 1.0]])
    captions = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = mismatched_fidelity(pictures, captions, np.array([0, 0, 1]))
    assert found == pytest.approx(100 * 0.6 / 4)
    assert np.isnan(mismatched_fidelity(pictures, captions, np.zeros(3, dtype=np.int64)))


def test_the_most_style_is_chosen_among_those_that_break_the_fewest_guardrails() -> None:
    standings = {"a": Standing(0.2, 0), "b": Standing(0.9, 1), "c": Standing(0.5, 0)}
    assert chosen(standings) == "c"
    assert chosen({name: standings[name] for name in ("b",)}) == "b"
    assert chosen({"first": Standing(0.5, 0), "second": Standing(0.5, 0)}) == "first"


@given(st.sets(st.integers(0, 99), min_size=2), st.integers(0, 9))
def test_captions_choose_or_judge_and_never_both(units: set[int], seed: int) -> None:
    choosing, judging = halves(sorted(units), np.random.default_rng(seed))
    assert not set(choosing) & set(judging)
    assert set(choosing) | set(judging) == units
    assert 0 <= len(judging) - len(choosing) <= 1
