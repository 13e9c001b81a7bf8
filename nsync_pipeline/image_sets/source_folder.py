"""What lies in a folder of pictures: the pictures with their captions, and what is not used.

Subfolders are read too. Hidden files, and folders such as ``__MACOSX``, are passed over. A
``metadata.jsonl`` or ``metadata.csv`` speaks of the pictures of its own folder and below.
"""

import difflib
import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from nsync_pipeline.errors import CaptionError, PictureError
from nsync_pipeline.image_sets.caption_files import READERS, one_line, read_metadata, read_text
from nsync_pipeline.image_sets.problems import Problem, short_list

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


@dataclass
class _Findings:
    """What reading the captions gathers."""

    captions: defaultdict[str, list[tuple[str, str, Path | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )  # of each picture: (caption, source, sidecar)
    problems: list[Problem] = field(default_factory=list)
    caption_problems: list[Problem] = field(default_factory=list)


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
        raise PictureError(_no_pictures(folder, list(files)))
    for name, path in unread.items():
        what = f"cannot be read here ({path.suffix}): convert it to PNG or JPEG"
        found.problems.append(Problem(name, what))
    for name, path in metadata.items():
        _read_metadata_captions(name, path, pictures, found)
    _read_sidecar_captions(sidecars, pictures, unread, found)
    return SourceFolder(
        pictures=tuple(_picture(name, path, found) for name, path in pictures.items()),
        metadata=tuple(metadata.values()),
        problems=_by_name(found.problems),
        caption_problems=_by_name(found.caption_problems),
        ignored=tuple(n for n in files if n not in {*pictures, *metadata, *unread, *sidecars}),
    )


def _picture(name: str, path: Path, found: _Findings) -> SourcePicture:
    given = found.captions[name]
    if not given:
        return SourcePicture(path, name, None, None, None)
    if len({caption for caption, _, _ in given}) > 1:
        where = " and ".join(source for _, source, _ in given)
        what = f"has different captions in {where}: keep one"
        found.caption_problems.append(Problem(name, what))
    return SourcePicture(path, name, *given[0])


def _by_name(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: problem.name))


def _walk(folder: Path, found: _Findings) -> dict[str, Path]:
    """All files that are not hidden, by name and in its order."""
    files: dict[str, Path] = {}

    def unlisted(error: OSError) -> None:
        name = source_name(Path(error.filename), folder)
        found.problems.append(Problem(name, f"cannot be listed: {error.strerror}"))

    for parent, folders, names in os.walk(folder, onerror=unlisted):
        shown = [f for f in folders if not f.startswith(".") and f not in SKIPPED_FOLDERS]
        links = [f for f in shown if Path(parent, f).is_symlink()]
        folders[:] = [f for f in shown if f not in links]
        for name in links:
            what = "is a link to a folder: put the pictures themselves here"
            found.problems.append(Problem(source_name(Path(parent, name), folder), what))
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
        found.caption_problems.append(Problem(name, str(error)))
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
    what = (
        f"has captions for files that are not pictures here: {short_list(missing)}{meant}; "
        "bring the pictures or take out the rows"
    )
    found.problems.append(Problem(name, what))


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
                what = (
                    f"could be the caption of {' or '.join(owners)}: "
                    "give each its own stem, or caption them in metadata.jsonl"
                )
                found.caption_problems.append(Problem(name, what))
        elif owners:
            try:
                found.captions[owners[0]].append((one_line(read_text(path)), "txt", path))
            except CaptionError as error:
                found.caption_problems.append(Problem(name, str(error)))
        elif _stem(name) not in unread_stems:  # there the picture is the problem
            what = "is a caption without its picture: bring the picture, or move the text"
            found.problems.append(Problem(name, what))


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _no_pictures(folder: Path, files: list[str]) -> str:
    what = f"found only {short_list(files)}" if files else "it is empty"
    kinds = ", ".join(sorted(suffix.lstrip(".") for suffix in READ_SUFFIXES))
    return f"{folder} holds no pictures ({what}); pictures are files of the kinds {kinds}"
