"""What an artefact says of itself: ``made.json``, ``SHA256SUMS`` and its previews.

``SHA256SUMS`` lists the content (as ``sha256sum -c`` reads it). Its own digest names the content:
what is made from an artefact depends on that, and not on how the artefact came about. Nothing in
``made.json`` changes from run to run: no times, no paths of a machine.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nsync_pipeline import __version__
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.graph.hashes import FileHashes
from nsync_pipeline.stage import Figure, StageResult

MADE_FILE = "made.json"
SUMS_FILE = "SHA256SUMS"
PREVIEW = "preview-{}.jpg"
BESIDE_CONTENT = "preview-*.jpg"
"""Names, besides those two, of what describes the content and is none of it."""


@dataclass(frozen=True)
class Made:
    """The content of a ``made.json``."""

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


def describe(folder: Path, made: Made, result: StageResult) -> Made:
    """Write previews, ``SHA256SUMS`` and ``made.json`` into the whole ``folder``."""
    previews = []
    for number, preview in enumerate(result.previews, start=1):
        name = PREVIEW.format(number)
        (folder / name).write_bytes(preview.jpeg)
        previews.append({"title": preview.title, "file": name})
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and is_content(path, folder)
    )
    sums = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in files
    )
    (folder / SUMS_FILE).write_text(sums, encoding="utf-8", newline="\n")
    said = asdict(made) | {
        "content": hashlib.sha256(sums.encode()).hexdigest(),
        "figures": dict(result.figures),
        "previews": previews,
    }
    text = json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / MADE_FILE).write_text(text, encoding="utf-8", newline="\n")
    return Made(**{**said, "previews": tuple(previews)})


def is_content(path: Path, folder: Path) -> bool:
    """The file is of the artefact's content, and not of what describes it."""
    described = path.name in (MADE_FILE, SUMS_FILE) or path.match(BESIDE_CONTENT)
    return not (described and path.parent == folder)


def read_made(folder: Path) -> Made | None:
    """What the artefact in ``folder`` says of itself; None where there is none that can be read."""
    try:
        content = json.loads((folder / MADE_FILE).read_bytes())
        return Made(**{**content, "previews": tuple(content["previews"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def require_whole(folder: Path, made: Made, hashes: FileHashes) -> None:
    """Compare the files of ``folder`` with what ``made`` says it holds.

    Raises:
        MissingArtifactError: a file is missing, changed, or too much; the message names it.
    """
    sums_file = folder / SUMS_FILE
    text = sums_file.read_text(encoding="utf-8") if sums_file.is_file() else ""
    if hashlib.sha256(text.encode()).hexdigest() != made.content:
        raise _broken(folder, made, SUMS_FILE)
    listed = {
        name: digest for digest, _, name in (row.partition("  ") for row in text.splitlines())
    }
    there = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and is_content(path, folder)
    }
    digests = hashes.of({name: path for name, path in there.items() if name in listed})
    wrong = [name for name in {**listed, **there} if listed.get(name) != digests.get(name)]
    if wrong:
        raise _broken(folder, made, wrong[0])


def _broken(folder: Path, made: Made, name: str) -> MissingArtifactError:
    return MissingArtifactError(
        f"{folder / name} is not what the stage {made.stage} made: it was changed, damaged or is "
        f"missing. Bring it back (`dvc checkout {folder.name}` where DVC has it), or remove the "
        f"folder and run {made.stage} again."
    )
