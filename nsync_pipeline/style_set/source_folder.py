"""What lies in a folder of pictures: the pictures with their captions, and what is not used.

Subfolders are read too. Hidden files, and folders such as ``__MACOSX``, are passed over. A
``metadata.jsonl`` or ``metadata.csv`` speaks of the pictures of its own folder and below.
"""

import csv
import difflib
import io
import json
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePath, PurePosixPath

from nsync_pipeline.errors import LISTED, CaptionError, NotTextError, PictureError, short_list
from nsync_pipeline.files import parse_json
from nsync_pipeline.given_files import given_files, read_given
from nsync_pipeline.text import decoded, one_line, printable, says_something

FILE_COLUMN = "file_name"
TEXT_COLUMNS = ("text", "caption")  # Hugging Face's imagefolder; of both, ``text`` is taken
MOST_BYTES = {".txt": 2**20, ".caption": 2**20}  # of one picture's caption
MOST_METADATA = 2**28  # bytes
MOST_CAPTION = 10_000  # characters


@dataclass(frozen=True)
class MetadataRow:
    """A picture's caption in a metadata file."""

    picture: str  # POSIX, relative to the metadata file's folder
    caption: str | None  # one line; None where the row has no text that says something
    line: int  # the first is 1


def read_caption_file(path: Path) -> str:
    """The text of a file with captions.

    Raises:
        CaptionError: it cannot be read, is too large or is no UTF-8 text; the message goes on after
            the file's name.
    """
    try:
        return decoded(read_given(path, MOST_BYTES.get(path.suffix.lower(), MOST_METADATA)))
    except (NotTextError, PictureError) as error:
        raise CaptionError(str(error)) from error


def as_caption(text: str, where: str = "") -> str | None:
    """``text`` as a caption, in one line; None where there is nothing but white space or signs.

    Raises:
        CaptionError: it is too long, or holds what is no text.
    """
    try:
        caption = one_line(text)
    except NotTextError as error:
        raise CaptionError(f"{where}{error}") from error
    if len(caption) > MOST_CAPTION:
        raise CaptionError(
            f"{where}has {len(caption)} characters: a caption has {MOST_CAPTION} at most"
        )
    return caption if says_something(caption) else None


def read_metadata(path: Path) -> list[MetadataRow]:
    """The rows of a ``metadata.jsonl`` or ``metadata.csv``.

    Raises:
        CaptionError: it is not UTF-8, a line is not what the format asks for, or one picture has
            two captions; the message goes on after the file's name.
    """
    return metadata_rows(path.name, read_caption_file(path))


def metadata_rows(file: str, text: str) -> list[MetadataRow]:
    """The rows that ``text``, of a metadata file of this name, holds; raises as above."""
    rows: dict[str, MetadataRow] = {}
    with_text = False
    for line, values in READERS[file.lower()](text):
        row = _row(line, values)
        with_text |= not values.keys().isdisjoint(TEXT_COLUMNS)
        known = rows.setdefault(row.picture, row)
        if known.caption != row.caption:
            raise CaptionError(
                f"gives {printable(row.picture)} two captions, in lines {known.line} and {line}: "
                "keep one"
            )
    if rows and not with_text:
        raise CaptionError(f"has no captions: its rows need `{TEXT_COLUMNS[0]}` or `caption`")
    return list(rows.values())


def _row(line: int, values: Mapping[str, object]) -> MetadataRow:
    name = values.get(FILE_COLUMN)
    if not isinstance(name, str) or not name.strip():
        raise CaptionError(f"line {line} has no `{FILE_COLUMN}`: each row names its picture")
    given = None
    for column in TEXT_COLUMNS:
        text = values.get(column)
        if text is not None and not isinstance(text, str):
            raise CaptionError(f"line {line}: `{column}` must be text, found {type(text).__name__}")
        given = text if given is None else given
    caption = None if given is None else as_caption(given, f"line {line} ")
    return MetadataRow(picture_name(name), caption, line)


def picture_name(name: str) -> str:
    """A file name as metadata may give it, as source names are written: POSIX, NFC, no ``./``."""
    return unicodedata.normalize("NFC", PurePosixPath(name.strip().replace("\\", "/")).as_posix())


def _json_lines(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line, pairs=_columns)
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise CaptionError(f"line {number} is not JSON: {reason}") from error
        except CaptionError as error:
            raise CaptionError(f"line {number} {error}") from error
        if not isinstance(values, dict):
            raise CaptionError(f"line {number} must be an object with `{FILE_COLUMN}` and `text`")
        yield number, values


def _columns(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    """By name, whatever its case and the blanks around it; raises where two are the same then."""
    values: dict[str, object] = {}
    for key, value in pairs:
        name = key.strip().lower()
        if name in values and name in (FILE_COLUMN, *TEXT_COLUMNS):
            raise CaptionError(f"has two columns `{name}`: keep one")
        values[name] = value
    return values


def _csv_lines(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        columns = list(_columns((name, "") for name in next(reader, [])))
        if FILE_COLUMN not in columns or not set(TEXT_COLUMNS) & set(columns):
            raise CaptionError(
                f"needs a first line with the columns `{FILE_COLUMN}` and `text` (or `caption`), "
                f"found: {printable(', '.join(columns)) or 'nothing'}"
            )
        for cells in reader:
            if len(cells) > len(columns):
                raise CaptionError(
                    f"line {reader.line_num} has more cells than the first line: "
                    "put a caption with commas in double quotes"
                )
            if cells:
                yield reader.line_num, dict(zip(columns, cells, strict=False))
    except csv.Error as error:
        raise CaptionError(f"line {reader.line_num} is not CSV: {error}") from error


Rows = Callable[[str], Iterator[tuple[int, Mapping[str, object]]]]
READERS: dict[str, Rows] = {
    f"{stem}{suffix}": read
    for stem in ("metadata", "captions")
    for suffix, read in ((".jsonl", _json_lines), (".csv", _csv_lines))
}
"""By the name in lower case."""


def with_rows(file: str, rows: Iterable[MetadataRow]) -> bytes:
    """A metadata file of this name that holds these rows."""
    if file.lower().endswith(".jsonl"):
        lines = (
            json.dumps({FILE_COLUMN: row.picture, TEXT_COLUMNS[0]: row.caption}, ensure_ascii=False)
            for row in rows
        )
        return "".join(f"{line}\n" for line in lines).encode()
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((FILE_COLUMN, TEXT_COLUMNS[0]))
    writer.writerows((row.picture, row.caption) for row in rows)
    return out.getvalue().encode()


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used."""

    name: str  # POSIX, relative to the source
    reason: str  # goes on after the name: "is empty (0 bytes)"

    def __str__(self) -> str:
        return f"{printable(self.name)} {self.reason}"


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
CAPTION_SUFFIXES = frozenset({".txt", ".caption"})
DATA_SUFFIXES = frozenset(
    {
        ".json",
        ".jsonl",
        ".ndjson",
        ".csv",
        ".tsv",
        ".parquet",
        ".xlsx",
        ".xls",
        ".ods",
        ".yaml",
        ".yml",
        ".toml",
    }
)
OTHER_TEXTS = frozenset(
    {".cap", ".caps", ".tag", ".tags", ".text", ".prompt", ".md", ".rtf", ".doc", ".docx", ".odt"}
)
PACKED = (b"PAR1", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How files begin whose text cannot be searched: Parquet, and what is compressed."""
CAPTION_STEMS = ("metadata", "meta_", "caption", "prompt", "label", "description")
"""How the names of such files begin that most likely hold captions."""


@dataclass(frozen=True)
class SourcePicture:
    """A picture of the source, not opened yet."""

    path: Path
    name: str  # POSIX, relative to the source, NFC
    caption: str | None  # one line; None where there is none
    caption_source: str | None  # txt, caption, or the metadata file's name; None as caption
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
        PictureError: the folder is not there, cannot be listed, or holds no picture.
    """
    if not folder.is_dir():
        raise PictureError(f"{folder} is not a folder of pictures: nothing is there")
    found = _Findings()
    given = given_files(folder)
    files = given.files
    pictures = {n: p for n, p in files.items() if p.suffix.lower() in READ_SUFFIXES}
    metadata = {n: p for n, p in files.items() if p.name.lower() in READERS}
    unread = {n: p for n, p in files.items() if p.suffix.lower() in UNREAD_SUFFIXES}
    sidecars = {name: path for name, path in files.items() if _is_sidecar(path)}
    for name, reason in given.refused.items():
        refused = PurePosixPath(name)
        of_captions = refused.name.lower() in READERS or _is_sidecar(refused)
        (found.caption_problem if of_captions else found.problem)(name, reason)
    if not pictures and not unread and not found.problems:
        what = f"found only {short_list(list(files))}" if files else "it is empty"
        kinds = ", ".join(sorted(suffix.lstrip(".") for suffix in READ_SUFFIXES))
        raise PictureError(
            f"{folder} holds no pictures ({what}); pictures are files of the kinds {kinds}"
        )
    for name, path in unread.items():
        found.problem(name, f"cannot be read here ({path.suffix}): convert it to PNG or JPEG")
    unusable = {problem.name for problem in found.problems}
    for name, path in metadata.items():
        _read_metadata_captions(name, path, pictures, unusable, found)
    _read_sidecar_captions(sidecars, pictures, unusable, found)
    of_use = {*pictures, *metadata, *unread, *sidecars}
    ignored = [n for n in files if n not in of_use]
    without = [name for name in pictures if not found.captions.get(name)]
    owners = {_stem(name): name for name in without} | {name: name for name in without}
    for name in ignored:
        doubt = _may_hold_captions(name, files[name], owners, without[:LISTED])
        if doubt is not None:
            found.caption_problem(name, doubt)
    by_name = attrgetter("name")
    return SourceFolder(
        pictures=tuple(_picture(name, path, found) for name, path in pictures.items()),
        metadata=tuple(metadata.values()),
        problems=tuple(sorted(found.problems, key=by_name)),
        caption_problems=tuple(sorted(found.caption_problems, key=by_name)),
        ignored=tuple(ignored),
    )


def _may_hold_captions(
    name: str, path: Path, owners: Mapping[str, str], without: Sequence[str]
) -> str | None:
    """Why a file that is not read may hold captions; None where nothing speaks for it.

    ``owners`` are the pictures without a caption, by name and by stem, and ``without`` some of
    them.
    """
    lower = PurePosixPath(name.lower().rstrip("~"))
    kinds = set(lower.suffixes)  # also what a copy was before: "metadata.jsonl.bak"
    if not kinds & (DATA_SUFFIXES | OTHER_TEXTS | CAPTION_SUFFIXES):
        return None
    stem = name
    while stem := _stem(stem):
        if (owner := owners.get(stem)) is not None:
            return (
                f"seems to be the caption of {printable(owner)}, and is of a kind that is not "
                f"read: save it as {printable(_stem(owner))}.txt, or move it away"
            )
    is_copy = not name.lower().endswith(tuple(DATA_SUFFIXES))
    if not kinds & DATA_SUFFIXES or (is_copy and not without):
        return None
    if not (lower.name.startswith(CAPTION_STEMS) or _names_one_of(path, without)):
        return None
    return (
        "seems to hold captions, and is of a kind that is not read: save it as "
        "metadata.jsonl or metadata.csv (`file_name`, `text`), or move it away"
    )


def _names_one_of(path: Path, pictures: Sequence[str]) -> bool:
    """Whether a table names one of ``pictures``; one that is packed otherwise than as a zip may."""
    try:
        content = read_given(path, MOST_METADATA)
    except PictureError:
        return False
    if content.startswith(PACKED):
        return bool(pictures)
    if zipfile.is_zipfile(io.BytesIO(content)):  # .xlsx and .ods are
        content = _unzipped(content)
    names = [PurePosixPath(name).name for name in pictures]
    return any(name.encode(code) in content for name in names for code in ("utf-8", "utf-16-le"))


def _unzipped(content: bytes) -> bytes:
    """What is in a zip, as far as it can be read: together no more than a table may have."""
    parts: list[bytes] = []
    left = MOST_METADATA
    with (
        suppress(
            zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError, RuntimeError
        ),
        zipfile.ZipFile(io.BytesIO(content)) as packed,
    ):
        for entry in packed.infolist():
            with packed.open(entry) as file:
                parts.append(file.read(left))
            left -= len(parts[-1])
    return b"".join(parts)


def _is_sidecar(path: PurePath) -> bool:
    return path.suffix.lower() in CAPTION_SUFFIXES and path.stem.lower() not in PLAIN_TEXTS


def _picture(name: str, path: Path, found: _Findings) -> SourcePicture:
    given = found.captions[name]
    if not given:
        return SourcePicture(path, name, None, None, None)
    if len({caption for caption, _, _ in given}) > 1:
        where = " and ".join(source for _, source, _ in given)
        found.caption_problem(name, f"has different captions in {where}: keep one")
    return SourcePicture(path, name, *given[0])


def _read_metadata_captions(
    name: str, path: Path, pictures: dict[str, Path], unusable: set[str], found: _Findings
) -> None:
    try:
        rows = read_metadata(path)
    except CaptionError as error:
        found.caption_problem(name, str(error))
        return
    above = name.removesuffix(path.name)
    source = path.name.lower()
    strangers = 0
    for row in rows:
        picture = above + row.picture
        if row.caption is None or picture in unusable:
            continue
        if picture in pictures:
            found.captions[picture].append((row.caption, source, None))
            continue
        strangers += 1
        meant = _meant(picture, pictures, above) if strangers <= LISTED else ""
        found.caption_problem(
            f"{name}, line {row.line},",
            f"captions {printable(row.picture)}, which is no picture here{meant}",
        )


def _meant(name: str, known: Iterable[str], above: str = "") -> str:
    """The names nearest to one that is not there: other case, ending or folder, or a mistyping."""

    def last(path: str) -> str:
        return path.rpartition("/")[2].lower()

    names = list(known)
    near = [n for n in names if n.lower() == name.lower()]
    near = near or [n for n in names if last(n) == last(name)]
    near = near or [n for n in names if _stem(n).lower() == _stem(name).lower()]
    stems = {_stem(n): n for n in names[:2000]}
    near = near or [
        stems[stem] for stem in difflib.get_close_matches(_stem(name), stems, n=1, cutoff=0.8)
    ]
    shown = " or ".join(printable(n.removeprefix(above)) for n in near[:2])
    return f" (is {shown} meant?)" if near else ""


def _read_sidecar_captions(
    sidecars: dict[str, Path], pictures: dict[str, Path], unusable: set[str], found: _Findings
) -> None:
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for name in pictures:
        by_stem[_stem(name)].append(name)
    without = unusable | {_stem(name) for name in unusable}  # there the picture is the problem
    strangers = 0
    for name, path in sidecars.items():
        stem = _stem(name)
        owners = [stem] if stem in pictures else by_stem.get(stem, [])
        if stem in without and not owners:
            continue
        try:
            caption = as_caption(read_caption_file(path))
        except CaptionError as error:
            found.caption_problem(name, str(error))
            continue
        if len(owners) > 1:
            if not all(found.captions[owner] for owner in owners):
                found.caption_problem(
                    name,
                    f"could be the caption of {' or '.join(owners)}: "
                    "give each its own stem, or caption them in metadata.jsonl",
                )
        elif owners and caption is not None:
            found.captions[owners[0]].append((caption, path.suffix.lower()[1:], path))
        elif not owners:
            strangers += 1
            meant = _meant(name, pictures) if strangers <= LISTED else ""  # it goes through all
            found.caption_problem(
                name,
                f"is a caption without its picture{meant}: rename it, bring the "
                "picture, or move the text away",
            )


def _stem(name: str) -> str:
    """Without the ending."""
    return name.rpartition(".")[0]
