"""Files and folders that appear whole or not at all, and the digests of what they hold."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nsync_pipeline.errors import LISTED, ElsewhereError, UserError, bullet_list, short_list
from nsync_pipeline.text import printable

PARTIAL = re.compile(r"\.(.+)\.(\d+)\.partial.*", re.DOTALL)
"""What is written beside its place: its name there, and the number of the process that writes."""
MOST_JSON = 64 * 2**20
"""Bytes: no JSON file of a workspace comes near it."""


@contextmanager
def whole_file(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A path beside ``path`` to write to; that file takes its place once it is on the disk.

    Where writing fails, ``path`` stays as it was. The file to write ends in ``.partial`` and has
    the process's number in its name, so that several processes may write to one place: the last to
    end wins. What a killed process leaves is never taken for the file, and goes with the next one.

    Args:
        lasting: whether it must outlive a power cut, for which the disk is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    try:
        yield partial
        if lasting:
            _to_disk(partial)
        partial.replace(path)
        if lasting:
            _settle_names(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, lasting: bool = True) -> None:
    """Write ``content`` to ``path``, whole or not at all; text is UTF-8, line ends as they are."""
    with whole_file(path, lasting) as partial:
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
    """An empty folder to write to; it takes the place of ``folder`` once all is on the disk.

    Where writing fails, ``folder`` stays as it was.
    """
    mend(folder)
    with partial_folder(folder) as partial:
        yield partial
        put_in_place(partial, folder)
    forget_replaced(folder)


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, gone afterwards unless it was moved."""
    partial = _beside(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def settle(folder: Path) -> None:
    """Wait until all that is under ``folder`` is on the disk."""
    for place, _, files in os.walk(folder):
        for name in files:
            if not Path(place, name).is_symlink():
                _to_disk(Path(place, name))
        _settle_names(Path(place))


def put_in_place(written: Path, folder: Path) -> None:
    """Move the folder ``written`` to ``folder``, on the same disk; what was there is ``replaced``.

    All of it is on the disk before it has its name: no power cut leaves an empty file in it.
    """
    settle(written)
    forget_replaced(folder)
    if folder.exists():
        folder.rename(replaced(folder))
    written.rename(folder)
    _settle_names(folder.parent)


def replaced(folder: Path) -> Path:
    """Where what was in the place of ``folder`` is, until who replaced it has done with it."""
    return folder.with_name(f".{folder.name}.replaced")


def forget_replaced(folder: Path) -> None:
    """Remove it."""
    if replaced(folder).is_symlink():  # the folder was a link to one
        replaced(folder).unlink()
    shutil.rmtree(replaced(folder), ignore_errors=True)


def mend(folder: Path) -> None:
    """Put back what was there, where a process was killed between the two moves."""
    if not folder.exists() and replaced(folder).is_dir():
        replaced(folder).rename(folder)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written under ``folder``."""
    for place, _, _ in os.walk(folder):
        _sweep_beside(Path(place))


def _sweep_beside(folder: Path, name: str | None = None) -> None:
    """The same in ``folder`` alone: of the file or folder ``name``, or of all in it."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = PARTIAL.fullmatch(entry.name)
            if found and name in (None, found[1]) and not _lives(int(found[2])):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _beside(path: Path) -> Path:
    """Where this process writes it; what others that were killed wrote there is gone."""
    _sweep_beside(path.parent, path.name)
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settle_names(folder: Path) -> None:
    with suppress(OSError):  # not every file system does that for a folder
        _to_disk(folder)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or none that can be read within bounds.
    """
    with path.open("rb") as file:
        content = file.read(MOST_JSON + 1)
    if len(content) > MOST_JSON:
        raise ValueError(f"it has more than {MOST_JSON} bytes")
    return parse_json(content)


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """The content of JSON text; ``ValueError`` where it is none that can be read.

    ``pairs`` makes an object of its names and values.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)  # noqa: TID251
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refusal(error: OSError) -> str:
    """What the system refused, and where, in one line."""
    reason = error.strerror or " ".join(str(error).split())
    return f"{printable(str(error.filename or 'the system'))}: {reason}"


FULL = (errno.ENOSPC, errno.EDQUOT)
SAYINGS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""How libraries report a full disk, each in its own words."""


@contextmanager
def disk_full_explained(folder: Path) -> Iterator[None]:
    """Raise one clear ``UserError`` in place of any error that means "this disk is full"."""
    try:
        yield
    except ElsewhereError:
        raise
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
