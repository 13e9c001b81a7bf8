"""What is shown of any text: one line, or several, that move no cursor and can be written down."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.text import printable, printable_lines

ANY = st.text(st.characters(exclude_categories=[]), max_size=40)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u65e5", "caf\u00e9 \u65e5"),
        ("a\x1b[2J\n", r"a\x1b[2J\n"),
        ("a\u202egnp.jpg", r"a\u202egnp.jpg"),
        (os.fsdecode(b"caf\xe9 \xe6\x97\xa5"), "caf\\xe9 \u65e5"),
        ("\ud800\udce9", r"\ud800\xe9"),
    ],
)
def test_what_is_not_shown_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@settings(deadline=None, database=None, derandomize=True)
@given(ANY, ANY)
def test_any_text_can_be_shown(one: str, other: str) -> None:
    shown = printable(one)
    assert shown.isprintable()
    shown.encode()
    lines = printable_lines(f"{one}\n{other}").split("\n")
    assert len(lines) == one.count("\n") + other.count("\n") + 2
    assert all(line.isprintable() for line in lines)


def test_what_is_long_is_cut_in_the_middle() -> None:
    assert printable("a" * 50 + "b" * 50, most=9) == "aaaa ... bbb"
