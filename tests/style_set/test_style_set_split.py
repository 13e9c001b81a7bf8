"""The split into train and test."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.style_set.ingestion import position, split_of

ids = st.lists(
    st.integers(0, 16**16 - 1).map(lambda n: f"{n:016x}"), min_size=2, max_size=60, unique=True
)
fractions = st.floats(0.01, 0.99)


def test_position_is_the_id_as_a_fraction() -> None:
    assert position("0000000000000000") == 0.0
    assert position("8000000000000000") == 0.5
    assert position("4000000000000000") == 0.25
    assert position("ffffffffffffffff") <= 1.0


def test_below_the_fraction_is_test() -> None:
    split = split_of(["3fffffffffffffff", "4000000000000000", "c000000000000000"], 0.25)
    assert list(split.values()) == ["test", "train", "train"]


def test_a_side_the_rule_leaves_empty_gets_the_picture_nearest_to_the_border() -> None:
    high = ["9000000000000000", "a000000000000000", "b000000000000000"]
    assert split_of(high, 0.25) == {high[0]: "test", high[1]: "train", high[2]: "train"}
    low = ["0100000000000000", "0200000000000000"]
    assert split_of(low, 0.25) == {low[0]: "test", low[1]: "train"}


def test_one_picture_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least two"):
        split_of(["0100000000000000"], 0.25)


@settings(deadline=None)
@given(ids, fractions)
def test_both_sides_are_there_whatever_the_set(picture_ids: list[str], fraction: float) -> None:
    split = split_of(picture_ids, fraction)
    assert list(split) == picture_ids
    assert set(split.values()) == {"train", "test"}


@settings(deadline=None)
@given(ids, ids, fractions)
def test_adding_pictures_moves_none_but_the_one_that_filled_an_empty_side(
    before: list[str], added: list[str], fraction: float
) -> None:
    old = split_of(before, fraction)
    new = split_of(list(dict.fromkeys(before + added)), fraction)
    moved = [i for i in before if old[i] != new[i]]
    by_rule = {i: "test" if position(i) < fraction else "train" for i in before}
    assert all(old[i] != by_rule[i] for i in moved)
    assert len(moved) <= 1


@settings(deadline=None)
@given(ids, fractions)
def test_the_order_of_the_pictures_does_not_matter(picture_ids: list[str], fraction: float) -> None:
    assert split_of(picture_ids, fraction) == split_of(picture_ids[::-1], fraction)
