"""What is printed: no name, caption or message moves the cursor or hides itself."""

import io
import re
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from nsync_pipeline.terminal import ShownConsole, only_shown

HOSTILE = "a\x1b[2J\u202egnp.\ud800\x9b31m\r\x07é 日\u3000本"
SHOWN = r"a\x1b[2J\u202egnp.\ud800\x9b31m\r\x07é 日" + "\u3000本"
ANY = st.text(st.characters(exclude_categories=[]), max_size=40)
COLOURS = re.compile(r"\x1b\[[\d;]*m")


def _acts(text: str) -> list[str]:
    """The signs in ``text`` that a terminal acts on, or shows nothing for."""
    signs = (sign for sign in text if sign not in "\n\t\u200c\u200d")
    return [
        sign for sign in signs if unicodedata.category(sign)[0] in "C" or sign in "\u2028\u2029"
    ]


def test_hostile_text_is_printed_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    with only_shown():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        print("two\n\tlines", "👨\u200d👩")
    assert capsys.readouterr() == (f"{SHOWN}\ntwo\n\tlines 👨\u200d👩\n", f"{SHOWN}\n")


@settings(deadline=None, database=None, derandomize=True, max_examples=30)
@given(ANY, ANY, st.booleans())
def test_nothing_that_is_printed_acts_on_a_terminal(one: str, other: str, table: bool) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    before, sys.stdout = sys.stdout, out
    try:
        with only_shown():
            if table:
                rich = Table(title=f"x{one}")
                rich.add_row(f"x{one}", f"x{other}")
                ShownConsole(force_terminal=True, width=120).print(rich)
            else:
                print(f"x{one}", other)
    finally:
        sys.stdout = before
    out.flush()
    assert not _acts(COLOURS.sub("", out.buffer.getvalue().decode()))


def test_a_terminal_still_has_its_colours_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    """rich writes by itself, and tqdm goes back to the beginning of its line."""
    with only_shown():
        ShownConsole(force_terminal=True, color_system="standard").print("[red]x[/red]")
        for written in ("\r 40%", "\n", "\x1b[A", "\n\x1b[A\x1b[A"):
            sys.stdout.write(written)
    assert capsys.readouterr().out == "\x1b[31mx\x1b[0m\n\r 40%\n\x1b[A\n\x1b[A\x1b[A"
