"""Files and folders that appear whole or not at all, and the digests of what they hold."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
    return _digest(path, "sha256")


def folder_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in ``folder``, by its relative POSIX path, in their order."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: file_sha256(files[name]) for name in sorted(files)}


def file_md5(path: Path) -> str:
    return _digest(path, "md5")


def _digest(path: Path, algorithm: str) -> str:
    # Not for security: DVC's own names of contents are MD5.
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def dvc_digest(path: Path) -> str:
    """The name DVC gives the content: ``<md5>`` of a file, ``<md5>.dir`` of a folder.

    A folder's is the MD5 of the JSON list of its files' MD5s and relative paths, in path order.
    """
    if path.is_file():
        return file_md5(path)
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    listing = [{"md5": file_md5(files[name]), "relpath": name} for name in sorted(files)]
    content = json.dumps(listing, sort_keys=True).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
