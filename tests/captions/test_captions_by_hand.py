"""The file of captions that a person wrote: read, written, and refused with its line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.captions.by_hand import (
    HandCaption,
    caption_line,
    read_by_hand,
    write_by_hand,
)
from nsync_pipeline.errors import CaptionError

ALPHABET = 'aA1 ,"\\é\u0065\u0301\t\n\r\x00\x1b\x85\u2028\u00a0漢🎨'
TEXTS = st.text(ALPHABET, max_size=12)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text("0123456789abcdef", min_size=1), st.tuples(TEXTS, TEXTS)))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, tuple[str, str]]
) -> None:
    captions = {
        name: HandCaption(name, file, caption_line(text))
        for name, (file, text) in drawn.items()
        if caption_line(text)
    }
    path = tmp_path_factory.mktemp("by_hand") / "ink.jsonl"
    write_by_hand(path, captions)
    assert read_by_hand(path) == captions


@given(st.text(ALPHABET + "\ud800", max_size=12))
def test_a_caption_is_one_clean_line_and_stays_it(text: str) -> None:
    line = caption_line(text)
    assert caption_line(line) == line
    assert not any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in line)


def test_lines_are_in_the_order_of_names(tmp_path: Path) -> None:
    one, two = HandCaption("ff", "a.jpg", "a tree"), HandCaption("00", "b.jpg", "a boat")
    write_by_hand(tmp_path / "x.jsonl", {"00": two, "ff": one})
    assert (tmp_path / "x.jsonl").read_text() == (
        '{"id": "ff", "file": "a.jpg", "caption": "a tree"}\n'
        '{"id": "00", "file": "b.jpg", "caption": "a boat"}\n'
    )


def test_no_file_is_no_captions(tmp_path: Path) -> None:
    assert read_by_hand(tmp_path / "x.jsonl") == {}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a boat", "not JSON"),
        ("[" * 100_000, "not JSON: it is nested too deep"),
        ('["a"]', "an object with id, file, caption"),
        ('{"id": "a", "caption": "a boat"}', "an object with id, file, caption"),
        ('{"id": "a", "file": "b", "caption": 3}', "must be text"),
        ('{"id": "a", "file": "b", "caption": " "}', "must not be empty"),
        ('{"id": "a", "file": "b", "caption": "..."}', "must not be empty"),
        ('{"id": "00", "file": "b", "caption": "again"}', "has one already"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"id": "00", "file": "a", "caption": "a boat"}}\n\n{line}\n')
    with pytest.raises(CaptionError, match=f"line 3: .*{why}"):
        read_by_hand(path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(CaptionError, match="UTF-8"):
        read_by_hand(tmp_path / "x.jsonl")
