"""What an artefact says of itself: ``made.json``, ``SHA256SUMS`` and its previews.

``SHA256SUMS`` lists the content (as ``sha256sum -c`` reads it). Its own digest names the content:
what is made from an artefact depends on that, and not on how the artefact came about. Nothing in
``made.json`` changes from run to run: no times, no paths of a machine.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter

from nsync_pipeline import __version__
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import file_sha256, read_json, write_whole
from nsync_pipeline.stage import Figure, StageResult

MADE_FILE = "made.json"
SUMS_FILE = "SHA256SUMS"
PREVIEW = "preview-{}.jpg"


@dataclass(frozen=True)
class Made:
    """The content of a ``made.json``; with other keys it is another version's."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    stage: str
    recipe: int
    style: str
    variant: str | None
    training_seed: int | None
    settings: Mapping[str, Any]  # what of its settings decided it
    inputs: Mapping[str, str]  # the digest of each folder it was made from, by path
    engine: str = __version__
    content: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    previews: tuple[Mapping[str, str], ...] = ()  # title and file
    device: str = ""  # the kind that computed it: `cpu`, a card's name; empty where none is used

    @property
    def of_what(self) -> tuple[str, ...]:
        """Which artefact it is: its stage, its style, and of which training."""
        parts = (self.stage, self.style, self.variant, self.training_seed)
        return tuple(str(part) for part in parts if part is not None)

    def made_alike(self, other: "Made") -> bool:
        """By the same stage and recipe, with the same settings, from the same inputs."""
        return (self.stage, self.recipe, self.settings, self.inputs) == (
            other.stage, other.recipe, other.settings, other.inputs,
        )  # fmt: skip

    def digest(self) -> str:
        """32 hex digits over what it is made from: the same in every workspace."""
        content = [self.stage, self.recipe, self.settings, self.inputs]
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


_MADE = TypeAdapter(Made)
_KNOWN = TypeAdapter(dict[str, tuple[list[int], str]])


def describe(folder: Path, made: Made, result: StageResult) -> Made:
    """Write previews, ``SHA256SUMS`` and ``made.json`` into the whole ``folder``."""
    previews = []
    for number, preview in enumerate(result.previews, start=1):
        name = PREVIEW.format(number)
        (folder / name).write_bytes(preview.jpeg)
        previews.append({"title": preview.title, "file": name})
    sums = _listed({name: file_sha256(path) for name, path in _content(folder).items()})
    (folder / SUMS_FILE).write_text(sums, encoding="utf-8", newline="\n")
    said = asdict(made) | {
        "content": hashlib.sha256(sums.encode()).hexdigest(),
        "figures": dict(result.figures),
        "previews": previews,
    }
    text = json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / MADE_FILE).write_text(text, encoding="utf-8", newline="\n")
    return Made(**{**said, "previews": tuple(previews)})


def _content(folder: Path) -> dict[str, Path]:
    """The files of the artefact's content, without those that describe it."""
    return {
        name: path
        for name, path in _files(folder).items()
        if path.parent != folder
        or not (name in (MADE_FILE, SUMS_FILE) or path.match(PREVIEW.format("*")))
    }


def read_made(folder: Path) -> Made | None:
    """What the artefact in ``folder`` says of itself; None where there is none that can be read."""
    try:
        return _MADE.validate_python(read_json(folder / MADE_FILE))
    except (OSError, ValueError):
        return None


class FileHashes:
    """Digests by what a file looked like when it was hashed, kept in one file a folder."""

    def __init__(self, kept: Path) -> None:
        """``kept`` is a folder of this machine's own; losing it costs time only."""
        self._kept = kept

    def folder(self, folder: Path) -> str:
        """The digest of all files under ``folder``, by relative path; of none where it is empty.

        What may not be read (a link that leads out of it, say) counts by its name.
        """
        root, files = folder.resolve(), _files(folder)
        fit = {
            name: path
            for name, path in files.items()
            if path.resolve().is_relative_to(root) and os.access(path, os.R_OK)
        }
        text = _listed(self.of(fit) | {name: "" for name in files if name not in fit})
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def of(self, files: Mapping[str, Path]) -> dict[str, str]:
        """The digest of each file, by the same names."""
        if not files:
            return {}
        name, path = next(iter(files.items()))
        root = str(path).removesuffix(name).encode("utf-8", "surrogateescape")
        place = self._kept / f"{hashlib.blake2b(root, digest_size=12).hexdigest()}.json"
        known = _read_known(place)
        digests: dict[str, str] = {}
        seen: dict[str, tuple[list[int], str]] = {}
        for name, path in files.items():
            stat = path.stat()
            state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
            before = known.get(name)
            digest = before[1] if before and before[0] == state else file_sha256(path)
            digests[name], seen[name] = digest, (state, digest)
        if seen != known:
            with suppress(OSError):  # a full or read-only disk costs the time to hash again
                write_whole(place, json.dumps(seen))
        return digests


def _read_known(place: Path) -> dict[str, tuple[list[int], str]]:
    try:
        return _KNOWN.validate_python(read_json(place))
    except (OSError, ValueError):
        return {}


def _files(folder: Path) -> dict[str, Path]:
    """The files under ``folder`` by relative path, folder by folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in files}


def _listed(digests: Mapping[str, str]) -> str:
    """As ``sha256sum`` writes it."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def require_whole(folder: Path, made: Made, hashes: FileHashes) -> None:
    """Compare the files of ``folder`` with what ``made`` says it holds.

    Raises:
        MissingArtifactError: a file is missing, changed, or too much; the message names it.
    """
    sums_file = folder / SUMS_FILE
    sums = sums_file.read_bytes() if sums_file.is_file() else b""
    wrong = [SUMS_FILE]
    if hashlib.sha256(sums).hexdigest() == made.content:
        rows = (row.partition("  ") for row in sums.decode().splitlines())
        listed = {name: digest for digest, _, name in rows}
        there = _content(folder)
        digests = hashes.of({name: path for name, path in there.items() if name in listed})
        wrong = [name for name, digest in listed.items() if digests.get(name) != digest]
        wrong += [name for name in there if name not in listed]
    if wrong:
        raise MissingArtifactError(
            f"{folder / wrong[0]} is not what the stage {made.stage} made: it was changed, damaged "
            f"or is missing. Bring it back (`dvc checkout {shlex.quote(str(folder))}`, where DVC "
            f"has it), or remove the folder and run {made.stage} again."
        )
