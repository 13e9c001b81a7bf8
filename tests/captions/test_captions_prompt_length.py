"""Captions cut to what the text encoder takes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.captions.prompt_length import fit


def words_and_style(caption: str) -> int:
    """A token a word, and five for "in the style of sks"."""
    return len(caption.split()) + 5


def test_what_fits_stays() -> None:
    fitted = fit("a red boat on a lake", words_and_style, 11)
    assert (fitted.caption, fitted.lost) == ("a red boat on a lake", "")


@pytest.mark.parametrize(
    ("most", "caption", "lost"),
    [
        (10, "a red boat", "on a lake"),  # "a red boat on a" fits, and cannot end so
        (8, "a red boat", "on a lake"),
        (7, "a red", "boat on a lake"),
        (6, "", "a red boat on a lake"),  # "a" alone says nothing
        (5, "", "a red boat on a lake"),
        (2, "", "a red boat on a lake"),
    ],
)
def test_the_longest_start_that_can_end_there(most: int, caption: str, lost: str) -> None:
    fitted = fit("a red boat on a lake", words_and_style, most)
    assert (fitted.caption, fitted.lost) == (caption, lost)


def test_no_comma_or_bracket_is_left_at_the_end() -> None:
    assert fit("a boat, (blue) sky", words_and_style, 7).caption == "a boat"
    assert fit("a boat - blue sky", words_and_style, 8).caption == "a boat"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "boat", "on", "the", "lake,", "(red)", "-"]), max_size=20),
    st.integers(5, 30),
)
def test_a_cut_caption_fits_and_nothing_is_lost_unsaid(words: list[str], most: int) -> None:
    caption = " ".join(words)
    fitted = fit(caption, words_and_style, most)
    assert words_and_style(fitted.caption) <= most
    said = fitted.caption.split() + fitted.lost.split()
    assert [w.strip(",.(-") for w in said] == [w.strip(",.(-") for w in words]
