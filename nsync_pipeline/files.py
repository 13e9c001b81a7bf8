"""Writing a stage's folder whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    finally:
        shutil.rmtree(partial, ignore_errors=True)


CHUNK = 1 << 20  # bytes


def file_md5(path: Path) -> str:
    return _digest(path, "md5")


def file_sha256(path: Path) -> str:
    return _digest(path, "sha256")


def _digest(path: Path, algorithm: str) -> str:
    # Not for security: DVC's own names of contents are MD5.
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


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


def write_whole(path: Path, text: str) -> None:
    """Write ``path`` whole or not at all: what is there before stays until the new is on disk."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
