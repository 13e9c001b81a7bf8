"""What lies in a folder of pictures: the pictures with their captions, and what is not used.

Subfolders are read too. Hidden files, and folders such as ``__MACOSX``, are passed over. A
``metadata.jsonl`` or ``metadata.csv`` speaks of the pictures of its own folder and below.
"""

import csv
import difflib
import io
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePosixPath

from nsync_pipeline.errors import CaptionError, PictureError, short_list

FILE_COLUMN = "file_name"
TEXT_COLUMNS = ("text", "caption")  # Hugging Face's imagefolder; of both, ``text`` is taken


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
    """A UTF-8 file, with or without a byte order mark; raises as ``read_metadata``."""
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


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used."""

    name: str  # POSIX, relative to the source
    reason: str  # goes on after the name: "is empty (0 bytes)"

    def __str__(self) -> str:
        return f"{self.name} {self.reason}"


READ_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"}
)
UNREAD_SUFFIXES = frozenset(
    {".heic", ".heif", ".psd", ".svg", ".jxl", ".jp2", ".raw", ".dng", ".cr2", ".nef", ".arw",
     ".pdf", ".eps", ".ai", ".xcf", ".tga", ".ico"}
)  # fmt: skip
"""Pictures to a person's eye: passing them over in silence would lose them."""
PLAIN_TEXTS = frozenset(
    {"readme", "license", "licence", "copying", "credits", "notes", "requirements", "sources"}
)
"""Stems of text files that are no captions."""
SKIPPED_FOLDERS = frozenset({"__MACOSX", "@eaDir"})
SKIPPED_FILES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class SourcePicture:
    """A picture of the source, not opened yet."""

    path: Path
    name: str  # POSIX, relative to the source, NFC
    caption: str | None  # one line; None where there is none
    caption_source: str | None  # txt, metadata.jsonl, metadata.csv; None as caption
    caption_file: Path | None  # the sidecar it has for itself; None for metadata or no caption


@dataclass(frozen=True)
class SourceFolder:
    """What was found; every file of the folder that is not hidden is in exactly one place."""

    pictures: tuple[SourcePicture, ...]  # by name
    metadata: tuple[Path, ...]  # the metadata files
    problems: tuple[Problem, ...]  # files that cannot be used, by name
    caption_problems: tuple[Problem, ...]  # captions that cannot be told, by name
    ignored: tuple[str, ...]  # files that are neither pictures nor captions, by name


class _Findings:
    """What reading the folder gathers."""

    def __init__(self) -> None:
        # Of each picture: (caption, source, sidecar).
        self.captions: defaultdict[str, list[tuple[str, str, Path | None]]] = defaultdict(list)
        self.problems: list[Problem] = []
        self.caption_problems: list[Problem] = []

    def problem(self, name: str, reason: str) -> None:
        self.problems.append(Problem(name, reason))

    def caption_problem(self, name: str, reason: str) -> None:
        self.caption_problems.append(Problem(name, reason))


def read_source(folder: Path) -> SourceFolder:
    """List ``folder`` and read its captions; the pictures are not opened.

    Raises:
        PictureError: the folder is not there, or holds no picture.
    """
    if not folder.is_dir():
        raise PictureError(f"{folder} is not a folder of pictures: nothing is there")
    found = _Findings()
    files = _walk(folder, found)
    pictures = {n: p for n, p in files.items() if p.suffix.lower() in READ_SUFFIXES}
    metadata = {n: p for n, p in files.items() if p.name in READERS}
    unread = {n: p for n, p in files.items() if p.suffix.lower() in UNREAD_SUFFIXES}
    sidecars = {
        name: path
        for name, path in files.items()
        if path.suffix.lower() == ".txt" and path.stem.lower() not in PLAIN_TEXTS
    }
    if not pictures and not unread:
        what = f"found only {short_list(list(files))}" if files else "it is empty"
        kinds = ", ".join(sorted(suffix.lstrip(".") for suffix in READ_SUFFIXES))
        raise PictureError(
            f"{folder} holds no pictures ({what}); pictures are files of the kinds {kinds}"
        )
    for name, path in unread.items():
        found.problem(name, f"cannot be read here ({path.suffix}): convert it to PNG or JPEG")
    for name, path in metadata.items():
        _read_metadata_captions(name, path, pictures, found)
    _read_sidecar_captions(sidecars, pictures, unread, found)
    by_name = attrgetter("name")
    return SourceFolder(
        pictures=tuple(_picture(name, path, found) for name, path in pictures.items()),
        metadata=tuple(metadata.values()),
        problems=tuple(sorted(found.problems, key=by_name)),
        caption_problems=tuple(sorted(found.caption_problems, key=by_name)),
        ignored=tuple(n for n in files if n not in {*pictures, *metadata, *unread, *sidecars}),
    )


def _picture(name: str, path: Path, found: _Findings) -> SourcePicture:
    given = found.captions[name]
    if not given:
        return SourcePicture(path, name, None, None, None)
    if len({caption for caption, _, _ in given}) > 1:
        where = " and ".join(source for _, source, _ in given)
        found.caption_problem(name, f"has different captions in {where}: keep one")
    return SourcePicture(path, name, *given[0])


def _walk(folder: Path, found: _Findings) -> dict[str, Path]:
    """All files that are not hidden, by name and in its order."""
    files: dict[str, Path] = {}

    def unlisted(error: OSError) -> None:
        name = source_name(Path(error.filename), folder)
        found.problem(name, f"cannot be listed: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=unlisted):
        shown = [f for f in folders if not f.startswith(".") and f not in SKIPPED_FOLDERS]
        links = [f for f in shown if Path(parent, f).is_symlink()]
        folders[:] = [f for f in shown if f not in links]
        for name in links:
            link = source_name(Path(parent, name), folder)
            found.problem(link, "is a link to a folder: put the pictures themselves here")
        for name in names:
            if not name.startswith(".") and name.lower() not in SKIPPED_FILES:
                path = Path(parent, name)
                files[source_name(path, folder)] = path
    return dict(sorted(files.items()))


def source_name(path: Path, folder: Path) -> str:
    """How a file of a source is named: POSIX, relative to the source, composed Unicode (NFC)."""
    return unicodedata.normalize("NFC", path.relative_to(folder).as_posix())


def _read_metadata_captions(
    name: str, path: Path, pictures: dict[str, Path], found: _Findings
) -> None:
    try:
        rows = read_metadata(path)
    except CaptionError as error:
        found.caption_problem(name, str(error))
        return
    above = name.removesuffix(path.name)
    missing = []
    for row in rows:
        if row.caption is None:
            continue
        if above + row.picture in pictures:
            found.captions[above + row.picture].append((row.caption, path.name, None))
        else:
            missing.append(f"{row.picture} (line {row.line})")
    if not missing:
        return
    first = missing[0].split(" (line ")[0]
    close = difflib.get_close_matches(above + first, list(pictures), n=1, cutoff=0.8)
    meant = f" (is {close[0]} meant?)" if close else ""
    found.problem(
        name,
        f"has captions for files that are not pictures here: {short_list(missing)}{meant}; "
        "bring the pictures or take out the rows",
    )


def _read_sidecar_captions(
    sidecars: dict[str, Path], pictures: dict[str, Path], unread: dict[str, Path], found: _Findings
) -> None:
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for name in pictures:
        by_stem[_stem(name)].append(name)
    unread_stems = {_stem(name) for name in unread}
    for name, path in sidecars.items():
        owners = by_stem.get(_stem(name), [])
        if len(owners) > 1:
            if not all(found.captions[owner] for owner in owners):
                found.caption_problem(
                    name,
                    f"could be the caption of {' or '.join(owners)}: "
                    "give each its own stem, or caption them in metadata.jsonl",
                )
        elif owners:
            try:
                found.captions[owners[0]].append((one_line(read_text(path)), "txt", path))
            except CaptionError as error:
                found.caption_problem(name, str(error))
        elif _stem(name) not in unread_stems:  # there the picture is the problem
            found.problem(
                name, "is a caption without its picture: bring the picture, or move the text"
            )


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
