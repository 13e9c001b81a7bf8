"""Captions beside the pictures: ``<stem>.txt``, ``metadata.jsonl``, ``metadata.csv``."""

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nsync_pipeline.errors import CaptionError

FILE_COLUMN = "file_name"
TEXT_COLUMNS = ("text", "caption")
"""The columns of Hugging Face's imagefolder; where a row has both, ``text`` is taken."""


@dataclass(frozen=True)
class MetadataRow:
    """A picture's caption in a metadata file."""

    picture: str  # POSIX, relative to the metadata file's folder
    caption: str | None  # one line; None where the row has no text
    line: int  # the first is 1


def one_line(text: str) -> str:
    """``text`` in composed Unicode (NFC), each run of white space as one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark.

    Raises:
        CaptionError: it cannot be read or is not UTF-8; the message goes on after the file's name.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptionError(
            f"is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}): "
            "save it in the encoding UTF-8"
        ) from error
    except OSError as error:
        raise CaptionError(f"cannot be read: {error.strerror}") from error


def read_metadata(path: Path) -> list[MetadataRow]:
    """The rows of a ``metadata.jsonl`` or ``metadata.csv``.

    Raises:
        CaptionError: it is not UTF-8, a line is not what the format asks for, or one picture has
            two captions; the message goes on after the file's name.
    """
    rows: dict[str, MetadataRow] = {}
    for line, values in READERS[path.name](read_text(path)):
        row = _row(line, values)
        known = rows.setdefault(row.picture, row)
        if known.caption != row.caption:
            raise CaptionError(
                f"gives {row.picture} two captions, in lines {known.line} and {line}: keep one"
            )
    if rows and all(row.caption is None for row in rows.values()):
        raise CaptionError(f"has no captions: its rows need `{TEXT_COLUMNS[0]}` or `caption`")
    return list(rows.values())


def _row(line: int, values: Mapping[str, object]) -> MetadataRow:
    name = values.get(FILE_COLUMN)
    if not isinstance(name, str) or not name.strip():
        raise CaptionError(f"line {line} has no `{FILE_COLUMN}`: each row names its picture")
    caption: str | None = None
    for column in TEXT_COLUMNS:
        text = values.get(column)
        if text is not None and not isinstance(text, str):
            raise CaptionError(f"line {line}: `{column}` must be text, found {type(text).__name__}")
        if caption is None and text is not None:
            caption = one_line(text)
    return MetadataRow(picture_name(name), caption, line)


def picture_name(name: str) -> str:
    """A file name as metadata may give it, as source names are written: POSIX, NFC, no ``./``."""
    return unicodedata.normalize("NFC", PurePosixPath(name.strip().replace("\\", "/")).as_posix())


def _json_lines(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise CaptionError(f"line {number} is not JSON: {error.msg}") from error
        if not isinstance(values, dict):
            raise CaptionError(f"line {number} must be an object with `{FILE_COLUMN}` and `text`")
        yield number, values


def _csv_lines(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or []
        if FILE_COLUMN not in columns or not set(TEXT_COLUMNS) & set(columns):
            raise CaptionError(
                f"needs a first line with the columns `{FILE_COLUMN}` and `text` (or `caption`), "
                f"found: {', '.join(columns) or 'nothing'}"
            )
        for values in reader:
            if None in values:
                raise CaptionError(
                    f"line {reader.line_num} has more cells than the first line: "
                    "put a caption with commas in double quotes"
                )
            yield reader.line_num, values
    except csv.Error as error:
        raise CaptionError(f"line {reader.line_num} is not CSV: {error}") from error


READERS: dict[str, Callable[[str], Iterator[tuple[int, Mapping[str, object]]]]] = {
    "metadata.jsonl": _json_lines,
    "metadata.csv": _csv_lines,
}
