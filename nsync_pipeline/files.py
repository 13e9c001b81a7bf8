"""Files and folders that appear whole or not at all, and the digests of what they hold."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nsync_pipeline.errors import LISTED, UserError, bullet_list, short_list


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; that file takes its place once it is on the disk.

    Where writing fails, ``path`` stays as it was. The file to write ends in ``.partial`` and has
    the process's number in its name, so that several processes may write to one place: the last to
    end wins. What a killed process leaves is never taken for the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
        with suppress(OSError):  # not every file system does that for a folder
            _to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all; text is UTF-8, line ends as they are."""
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def named_list(items: Sequence[object], file: Path | None) -> str:
    """``items`` one a line; where there are many, all are written to ``file``, which is named."""
    return f"{bullet_list(items)}{_the_rest(items, LISTED, file)}"


def named_in_line(items: Sequence[object], file: Path, most: int = LISTED) -> str:
    """``items`` in one line, as ``named_list``."""
    return f"{short_list(items, most)}{_the_rest(items, most, file)}"


def _the_rest(items: Sequence[object], most: int, file: Path | None) -> str:
    if len(items) <= most or file is None:
        return ""
    try:
        write_whole(file, "".join(f"{item}\n" for item in items))
    except OSError:  # a full or read-only disk must not hide what is named
        return ""
    return f" (all: {file.parent.parent.name}/{file.parent.name}/{file.name})"


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write to; it takes the place of ``folder`` once all is written.

    Where writing fails, ``folder`` stays as it was.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        with suppress(OSError):
            _to_disk(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


FULL = (errno.ENOSPC, errno.EDQUOT)
SAYINGS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""How libraries report a full disk, each in its own words."""


@contextmanager
def disk_full_explained(folder: Path) -> Iterator[None]:
    """Raise one clear ``UserError`` in place of any error that means "the disk is full"."""
    try:
        yield
    except Exception as error:
        if not _means_full(error):
            raise
        free = shutil.disk_usage(folder).free / 2**20
        raise UserError(
            f"The disk is full: {folder} has {free:.0f} MiB left. Make room, then run this again; "
            "it goes on where it was cut off."
        ) from error


def _means_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(saying in str(error) for saying in SAYINGS):
            return True
        error = error.__cause__ or error.__context__
    return False
