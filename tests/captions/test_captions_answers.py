"""What a model answers becomes a caption."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.captions.answers import caption_of


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("The image shows a boat on a lake.", "a boat on a lake"),
        ("The painting depicts a bridge over a pond", "a bridge over a pond"),
        ("In this image, there are two dogs playing", "two dogs playing"),
        ("There is a red house.", "a red house"),
        ("An image of a mill, by a river", "a mill, by a river"),
        ("This black-and-white photograph features an old man", "an old man"),
    ],
)
def test_it_begins_with_the_content(answer: str, caption: str) -> None:
    assert caption_of(answer, 25) == caption


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ('"A red house, under a blue sky."', "A red house, under a blue sky"),
        ("**Caption:** A boat\n\nLet me know if I can help.", "A boat"),
        ("Sure! Here is a brief description of the picture:\n\nA cat\non a mat.", "A cat on a mat"),
        ("Certainly, here's a prompt: “a cat”", "a cat"),
        ("- a boat\n- a lake", "a boat, a lake"),
        ("a *red* boat and 2*3 `sails`", "a red boat and 2*3 sails"),
        ("<think>a boat?\n\nyes</think>\n\nA boat", "A boat"),
        ("  \n", ""),
        ("...", ""),
    ],
)
def test_what_is_not_content_goes(answer: str, caption: str) -> None:
    assert caption_of(answer, 25) == caption


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("one two three four five six", "one two three four five six"),
        ("one two three. Four five six seven", "one two three"),
        ("one two three, four five six seven", "one two three"),
        ("one. Two three four five six seven", "one. Two three four five six"),
        ("a boat and a man under the bridge", "a boat and a man"),
    ],
)
def test_more_words_than_asked_for_are_cut_at_a_sensible_place(answer: str, caption: str) -> None:
    """At six words: after a sentence or a clause of three words or more, else after a content
    word."""
    assert caption_of(answer, 6) == caption


def test_words_of_other_scripts_are_words() -> None:
    assert (
        caption_of("“ein Boot in der Brandung – Größe”", 25) == "ein Boot in der Brandung – Größe"
    )


@settings(deadline=None)
@given(st.text(max_size=120), st.integers(3, 30))
def test_any_answer_becomes_one_line_of_so_many_words(answer: str, most: int) -> None:
    caption = caption_of(answer, most)
    assert len(caption.split()) <= most
    assert "\n" not in caption
    assert caption == caption.strip()
