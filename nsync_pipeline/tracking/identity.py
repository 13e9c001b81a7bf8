"""Content digests: what ties a run to an artefact, whichever run, machine or restore made it."""

import hashlib
import json
from pathlib import Path

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
