"""The files of a folder that a person named: which may be read, and how much of them.

The one place that decides: regular files in the folder, and links that stay in it, with names that
every program takes. Nothing else is opened, copied or versioned.
"""

import hashlib
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from nsync_pipeline.errors import PictureError
from nsync_pipeline.text import NOT_TEXT, printable

SKIPPED_FOLDERS = frozenset({"__MACOSX", "@eaDir"})
SKIPPED_FILES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class GivenFiles:
    """Every file of the folder that is not hidden is in exactly one of the two."""

    files: dict[str, Path]  # by name, in its order
    refused: dict[str, str]  # by name as it can be shown: why, to go on after the name


def given_files(folder: Path) -> GivenFiles:
    """What may be read of ``folder`` and its subfolders; hidden files are passed over.

    Raises:
        PictureError: the folder itself cannot be listed.
    """
    found: defaultdict[str, list[Path]] = defaultdict(list)
    refused: dict[str, str] = {}
    root = folder.resolve()

    def unlisted(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise PictureError(f"{folder} cannot be listed: {error.strerror}") from error
        refused[_shown(Path(error.filename), folder)] = f"cannot be listed: {error.strerror}"

    for parent, folders, names in os.walk(folder, onerror=unlisted):
        for name in tuple(folders):
            path = Path(parent, name)
            if (reason := unfit_name(name)) is None and _is_shown(name):
                if not path.is_symlink():
                    continue
                reason = "is a link to a folder: put the pictures themselves here"
            folders.remove(name)
            if reason:
                refused[_shown(path, folder)] = reason
        for name in names:
            path = Path(parent, name)
            reason = unfit_name(name) or (_unfit(path, root) if _is_shown(name) else None)
            if reason is not None:
                refused[_shown(path, folder)] = reason
            elif _is_shown(name):
                found[given_name(path, folder)].append(path)
    twice = {name: len(paths) for name, paths in found.items() if len(paths) > 1}
    for name, count in twice.items():
        refused[printable(name)] = (
            f"is the name of {count} files, in two ways to write accents: rename one"
        )
    files = {name: paths[0] for name, paths in sorted(found.items()) if name not in twice}
    return GivenFiles(files, dict(sorted(refused.items())))


def given_name(path: Path, folder: Path) -> str:
    """How a file is named: POSIX, relative to its folder, composed Unicode (NFC)."""
    return unicodedata.normalize("NFC", path.relative_to(folder).as_posix())


def _shown(path: Path, folder: Path) -> str:
    return printable(given_name(path, folder))


def _is_shown(name: str) -> bool:
    return not (name.startswith(".") or name in SKIPPED_FOLDERS or name.lower() in SKIPPED_FILES)


def unfit_name(name: str) -> str | None:
    """Why a file or folder of this name is refused; goes on after it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "has a name that is not UTF-8: rename it (mv or convmv)"
    if NOT_TEXT.search(name) or any(character in name for character in "\t\n\v\f\r"):
        return "has a control character in its name: rename it"
    return None


def may_be_read(path: Path, folder: Path) -> bool:
    """Whether ``given_files`` of ``folder`` has it."""
    return unfit_name(path.name) is None and _unfit(path, folder.resolve()) is None


def _unfit(path: Path, root: Path) -> str | None:
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError):
        broken = "is a link to nothing" if path.is_symlink() else "cannot be read"
        return f"{broken}: put the file itself here"
    if not real.is_relative_to(root):
        return "is a link that leads out of the folder: put the file itself here"
    if not stat.S_ISREG(mode):
        return "is no regular file (a pipe, a socket or a device): take it out"
    return None if os.access(path, os.R_OK) else "cannot be read: Permission denied"


def read_given(path: Path, most: int) -> bytes:
    """The content of a file of ``given_files``.

    Raises:
        PictureError: it cannot be read, is no regular file any more, grows, or has more than
            ``most`` bytes; the message goes on after the file's name.
    """
    with _opened(path, most) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)  # Python takes as much memory as it is asked to read
    if len(content) > size:
        raise PictureError("grows while it is read: wait until it is whole")
    return content


def given_sha256(path: Path, most: int) -> str:
    """The SHA-256 of its content, in hex; raises as ``read_given``."""
    with _opened(path, most) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path, most: int) -> Iterator[BufferedReader]:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise PictureError("is no regular file")
            if state.st_size > most:
                raise PictureError(
                    f"has more than {most >> 20} MiB: more than a file of its kind holds"
                )
            yield file
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from error


def in_its_place(start: bytes, what: str) -> str | None:
    """What is often found where a file should be, by its first bytes; None where it is not that.

    ``what`` the file should be: "the picture".
    """
    if not start:
        return "is empty (0 bytes)"
    if start.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer, not {what}: run `git lfs pull` where it came from"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"is a web page (HTML), not {what}: download {what} itself"
    return None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe that took its place would wait for ever
