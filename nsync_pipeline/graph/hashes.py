"""SHA-256 of files, computed once for as long as they do not change."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsync_pipeline.files import file_sha256


class FileHashes:
    """Digests by what a file looked like when it was hashed, kept in one file a folder."""

    def __init__(self, kept: Path) -> None:
        """``kept`` is a folder of this machine's own; losing it costs time only."""
        self._kept = kept

    def folder(self, folder: Path) -> str:
        """The digest of all files under ``folder``, by relative path; of none where it is empty."""
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        text = "".join(f"{digest}  {name}\n" for name, digest in self.of(files).items())
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def of(self, files: Mapping[str, Path]) -> dict[str, str]:
        """The digest of each file, by the same names."""
        if not files:
            return {}
        place = self._place(files)
        known = _read(place)
        digests: dict[str, str] = {}
        seen: dict[str, Any] = {}
        for name, path in files.items():
            stat = path.stat()
            state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
            before = known.get(name)
            digest = before[1] if before and before[0] == state else file_sha256(path)
            digests[name], seen[name] = digest, [state, digest]
        if seen != known:
            _write(place, seen)
        return digests

    def _place(self, files: Mapping[str, Path]) -> Path:
        name, path = next(iter(files.items()))
        root = str(path).removesuffix(name)
        digest = hashlib.blake2b(root.encode("utf-8", "surrogateescape"), digest_size=12)
        return self._kept / f"{digest.hexdigest()}.json"


def _read(place: Path) -> dict[str, Any]:
    try:
        content = json.loads(place.read_bytes())
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(place: Path, seen: Mapping[str, object]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(seen))
        partial.replace(place)
    except OSError:  # a full or read-only disk costs the time to hash again
        partial.unlink(missing_ok=True)
