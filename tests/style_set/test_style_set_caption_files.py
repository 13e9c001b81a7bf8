"""Sidecars and metadata files."""

from pathlib import Path

import pytest

from nsync_pipeline.errors import CaptionError
from nsync_pipeline.style_set.source_folder import read_caption_file, read_metadata
from nsync_pipeline.text import one_line


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def captions(path: Path) -> dict[str, str | None]:
    return {row.picture: row.caption for row in read_metadata(path)}


def refusal(path: Path) -> str:
    with pytest.raises(CaptionError) as caught:
        read_metadata(path)
    return str(caught.value)


def test_json_lines(tmp_path: Path) -> None:
    lines = (
        '{"file_name": "a.jpg", "text": "a boat"}\n'
        "\n"
        '{"file_name": "./sub/b.jpg", "caption": "two\\n  boats"}\r\n'
        '{"file_name": "c.jpg", "width": 3}\n'
        '{"file_name": "d.jpg", "text": "", "caption": "not this"}'
    )
    assert captions(written(tmp_path, "metadata.jsonl", lines)) == {
        "a.jpg": "a boat",
        "sub/b.jpg": "two boats",
        "c.jpg": None,
        "d.jpg": None,
    }


def test_csv_with_commas_quotes_and_windows_line_ends(tmp_path: Path) -> None:
    lines = 'file_name,text\r\na.jpg,"a boat, a ""big"" one"\r\nsub\\b.jpg,a hill\r\n'
    assert captions(written(tmp_path, "metadata.csv", b"\xef\xbb\xbf" + lines.encode())) == {
        "a.jpg": 'a boat, a "big" one',
        "sub/b.jpg": "a hill",
    }


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metadata.jsonl", '{"file_name": "a.jpg", "text": "x"}\n{oops', "line 2 is not JSON"),
        ("metadata.jsonl", '["a.jpg", "x"]', "line 1 must be an object"),
        ("metadata.jsonl", '{"text": "x"}', "line 1 has no `file_name`"),
        ("metadata.jsonl", '{"file_name": "a.jpg", "text": ["x"]}', "`text` must be text"),
        ("metadata.jsonl", '{"file_name": "a.jpg"}', "has no captions"),
        (
            "metadata.jsonl",
            '{"file_name": "a.jpg", "text": "x"}\n{"file_name": "a.jpg", "text": "y"}',
            "gives a.jpg two captions, in lines 1 and 2",
        ),
        ("metadata.csv", "name,text\na.jpg,x\n", "needs a first line with the columns"),
        ("metadata.csv", "", "found: nothing"),
        ("metadata.csv", "file_name,text\na.jpg,a boat, big\n", "double quotes"),
        ("metadata.csv", 'file_name,text\na.jpg,"open\n', "is not CSV"),
        ("metadata.jsonl", b"caf\xe9", "is not UTF-8 (byte 0xe9 at 3)"),
        ("metadata.csv", "file_name,text\n".encode("utf-16"), "is not UTF-8 (byte 0xff at 0)"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    assert said in refusal(written(tmp_path, name, content))


def test_the_same_row_twice_is_one_row(tmp_path: Path) -> None:
    row = '{"file_name": "a.jpg", "text": "x"}\n'
    assert captions(written(tmp_path, "metadata.jsonl", row * 2)) == {"a.jpg": "x"}


def test_a_sidecar_in_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match="not UTF-8"):
        read_caption_file(written(tmp_path, "a.txt", "une forêt".encode("latin-1")))


def test_one_line_is_composed_and_single_spaced() -> None:
    assert one_line("  une  fore\u0302t\r\n\tau bord ") == "une for\u00eat au bord"
