"""Captions without the words of their style."""

import re
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nsync_pipeline.captions.config import STYLE_WORDS, CaptioningConfig
from nsync_pipeline.captions.style_words import ScrubbedCaption, own_names, scrub
from nsync_pipeline.style_set.config import StyleConfig

WORDS = (*STYLE_WORDS, "Monet")


@pytest.mark.parametrize(
    ("caption", "content"),
    [
        ("an oil painting of a boat", "a boat"),
        ("An impressionist oil painting of a boat on a lake", "a boat on a lake"),
        ("a beautiful, detailed oil painting of a boat", "a boat"),
        ("Watercolor painting of a boat.", "a boat"),
        ("the painting shows a bridge", "a bridge"),
        ("a vibrant artwork depicting an old mill", "an old mill"),
        ("woodblock print: a wave", "a wave"),
        ("oil-painting of two dogs", "two dogs"),
        ("a Monet painting of water lilies", "water lilies"),
        ("an etching and engraving of the cathedral", "the cathedral"),
    ],
)
def test_a_caption_that_begins_with_its_medium(caption: str, content: str) -> None:
    assert scrub(caption, WORDS).caption == content


@pytest.mark.parametrize(
    ("caption", "content"),
    [
        ("a boat, oil painting", "a boat"),
        ("A boat. Oil painting.", "A boat"),
        ("a boat (oil on canvas)", "a boat"),
        ("a house in watercolor", "a house"),
        ("a boat in an oil painting style", "a boat"),
        ("a field with loose brushstrokes", "a field"),
        ("boats by Monet", "boats"),
        ("a boat in the style of Claude Monet", "a boat"),
        ("a church in the style of the Impressionists", "a church"),
    ],
)
def test_a_caption_that_ends_with_its_medium(caption: str, content: str) -> None:
    assert scrub(caption, WORDS).caption == content


@pytest.mark.parametrize(
    ("caption", "content"),
    [
        ("a wave, woodblock print, blue", "a wave, blue"),
        ("a house in watercolor and ink", "a house in ink"),
        ("a man holding a painting of a boat", "a man holding a boat"),
        ("a boat in a painting with a frame", "a boat with a frame"),
        ("in the style of Claude Monet, a boat", "a boat"),
        ("a boat in the style of Claude Monet with a red sail", "a boat with a red sail"),
        ("Monet's garden", "garden"),
        ("watercolor-style house", "house"),
    ],
)
def test_style_words_within_a_caption(caption: str, content: str) -> None:
    assert scrub(caption, WORDS).caption == content


@pytest.mark.parametrize(
    "caption",
    [
        "a girl drawing water from a well",
        "two horses drawing a cart",
        "an artist is painting outdoors",
        "a fisher painting the boat",
        "a woman drawing",
    ],
)
def test_what_somebody_does_stays(caption: str) -> None:
    assert scrub(caption, WORDS).removed == ()


@pytest.mark.parametrize(
    ("caption", "content"),
    [
        ("a man painting of a boat", "a boat"),
        ("a landscape painting, the sea", "a landscape, the sea"),
        ("this painting the sea", "this the sea"),
        ("a woman, painting", "a woman"),
        ("an illustration painting the sea", "a the sea"),
    ],
)
def test_a_medium_beside_a_person_or_an_article_goes(caption: str, content: str) -> None:
    assert scrub(caption, WORDS).caption == content


def test_articles_agree_with_what_now_follows() -> None:
    assert scrub("an impressionist landscape", WORDS).caption == "a landscape"
    assert scrub("a print apple", WORDS).caption == "an apple"


@pytest.mark.parametrize(
    "caption",
    ["footprints in the snow", "a man looking in", "a canvassed sail", "a painting-by-numbers kit"],
)
def test_other_words_stay_as_they_are(caption: str) -> None:
    scrubbed = scrub(caption, WORDS)
    assert (scrubbed.caption, scrubbed.removed) == (caption, ())


def test_white_space_and_outer_punctuation_are_tidied() -> None:
    assert scrub("  a boat ,\n on a lake.  ", ()).caption == "a boat , on a lake"


def test_what_was_removed_is_told_as_it_stood_there() -> None:
    scrubbed = scrub("An Oil  Painting of a boat, PRINT", WORDS)
    assert scrubbed.caption == "a boat"
    assert scrubbed.removed == ("Oil Painting", "PRINT")


@pytest.mark.parametrize("caption", ["painting", "a painting", "An oil painting, print.", ""])
def test_nothing_may_be_left(caption: str) -> None:
    assert scrub(caption, WORDS).caption == ""


def test_words_that_meet_when_others_go_are_removed_too() -> None:
    """Without "b" in between, "a c" stands there, which is a style's name as well."""
    assert scrub("x a b c y", ("b", "a c")).caption == "x y"


def test_characters_of_patterns_are_only_characters() -> None:
    assert scrub("a cat (sd 1.5) here", ("sd 1.5", "c.t")).caption == "a cat here"


pieces = st.lists(
    st.sampled_from(
        [*WORDS, "a", "an", "the", "of", "in", "with", "and", "boat", "egg", "red", "shows", ",",
         ".", "(", ")", ":", "-", "'s", "style", "Paintings", "\n"]
    ),
    max_size=14,
)  # fmt: skip


@settings(deadline=None)
@given(pieces.map(" ".join))
def test_scrubbing_twice_changes_nothing_and_leaves_no_style_word(caption: str) -> None:
    once = scrub(caption, WORDS)
    twice = scrub(once.caption, WORDS)
    assert twice.caption == once.caption
    assert twice.removed == ()
    assert "\x00" not in once.caption


NAMES = own_names("claude_monet", "sks", ("Monet",))


@pytest.mark.parametrize(
    ("caption", "content"),
    [
        ("sks style, a green tree", "a green tree"),
        ("sks, a green tree", "a green tree"),
        ("<sks> a green tree", "a green tree"),
        ("a green tree in sks style", "a green tree"),
        ("a green tree, by SKS.", "a green tree"),
        ("a photo of sks tree", "a photo of tree"),
        ("claude_monet, a green tree", "a green tree"),
        ("Claude Monet: a green tree", "a green tree"),
        ("a claude-monet green tree", "a green tree"),
        ("a green tree painted by Claude Monet", "a green tree"),
        ("a green tree, painted by claude oscar monet", "a green tree"),
        ("a green tree by the artist Claude Monet", "a green tree"),
        ("a green tree, after Monet", "a green tree"),
        ("a green tree painted by Pierre-Auguste Renoir", "a green tree"),
        ("a green tree, artwork by Vincent van Gogh, at noon", "a green tree, at noon"),
        ("painted by Monet, a green tree", "a green tree"),
        ("a green tree in Monet's style", "a green tree"),
        ("sks_style, a green tree", "a green tree"),
        ("a green tree, art_by_monet", "a green tree"),
        ("(sks:1.2), a green tree", "a green tree"),
        ("a green tree <lora:monet_v2:0.8>", "a green tree"),
        ("a green tree in the manner of Claude Monet", "a green tree"),
        ("a green tree à la Monet", "a green tree"),
        ("a green tree inspired by the painter Monet", "a green tree"),
        ("a green tree, signed Monet", "a green tree"),
        ("a Monet-inspired green tree", "a green tree"),
        ("by sks artist, a green tree", "a green tree"),
    ],
)
def test_what_the_style_is_called_by_is_taken_out(caption: str, content: str) -> None:
    scrubbed = scrub(caption, STYLE_WORDS, NAMES)
    assert (scrubbed.caption, len(scrubbed.naming)) == (content, 1)


@pytest.mark.parametrize(
    "caption",
    ["a cart drawn by two horses", "a house by the sea", "a boat after the storm",
     "a figure made by hand", "a house by Lake Como", "desks and tasks"],
)  # fmt: skip
def test_what_only_looks_like_a_credit_stays(caption: str) -> None:
    assert scrub(caption, STYLE_WORDS, NAMES).caption == caption


def test_a_style_with_the_name_of_an_article_takes_no_article_out() -> None:
    assert own_names("a", "sks", ("of",)) == ("sks", "<sks>")


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*WORDS, "sks", "SKS-style", "claude_monet", "Claude Monet", "painted by", "by", "boat",
             "sks_tree", "(sks:1.2)", "<lora:monet:1>", "in the manner of", "inspired by", "à la",
             "a", "the", "Renoir", "van", ",", "in the style of", "after", "of", "red", "\u200b"]
        ),
        max_size=12,
    ).map(" ".join)
)  # fmt: skip
def test_no_name_of_the_style_is_ever_left(caption: str) -> None:
    left = scrub(caption, STYLE_WORDS, NAMES)
    assert not {"sks", "monet"} & set(re.findall(r"[^\W_]+", left.caption.lower()))
    assert scrub(left.caption, STYLE_WORDS, NAMES) == ScrubbedCaption(left.caption, (), ())


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_taken(caption: str) -> None:
    once = scrub(caption, WORDS)
    assert scrub(once.caption, WORDS).caption == once.caption


def test_a_long_hostile_caption_takes_no_time() -> None:
    caption = "a painting " + ", and on - " * 3000 + "of a boat in a " * 2000
    start = time.process_time()
    scrub(caption, WORDS)
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize("section", [CaptioningConfig, partial(StyleConfig, source="folder")])
def test_an_empty_style_word_is_refused(section: Callable[..., object]) -> None:
    """It would be found everywhere."""
    with pytest.raises(ValidationError, match="an empty one"):
        section(style_words=("print", "  "))
