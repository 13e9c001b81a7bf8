"""What is shown of any text: one line, or several, that move no cursor and can be written down."""

import ast
import os
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.text import printable, printable_lines

KEPT = "\t\u200c\u200d"
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
    assert not any(category(sign)[0] == "C" for line in lines for sign in line if sign not in KEPT)


def test_lines_keep_blanks_and_joined_signs() -> None:
    assert printable_lines("a\n\t\u3000b 👨\u200d👩\x1b") == "a\n\t\u3000b 👨\u200d👩\\x1b"


def test_what_is_long_is_cut_in_the_middle() -> None:
    assert printable("a" * 50 + "b" * 50, most=9) == "aaaa ... bbb"


def test_what_another_program_says_need_not_be_utf_8() -> None:
    """``text=True`` alone fails at the first byte of a name that is not."""
    root = Path(__file__).parents[1]
    calls = [
        {keyword.arg for keyword in node.keywords}
        for room in ("nsync_pipeline", "assets")
        for path in (root / room).rglob("*.py")
        if b"text=True" in path.read_bytes()
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call)
    ]
    read = [c for c in calls if "text" in c and c & {"capture_output", "stdout", "stderr"}]
    assert read
    assert all("errors" in call for call in read)
