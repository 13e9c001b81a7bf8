"""Captions that a person wrote in the workspace: ``captions/<style>.jsonl``, a line a picture.

They go before what came with a picture, and that before a model. A line is known by the picture's
id, which is its content: it stays with a picture that is renamed, and one of a picture that was
taken out of the set is kept for when it comes back. The file is small text, for git.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nsync_pipeline.errors import CaptionError
from nsync_pipeline.files import parse_json, write_whole
from nsync_pipeline.text import one_line, says_something, without_controls

BY_HAND = "hand"  # the source of a caption that a person wrote here
KEYS = ("id", "file", "caption")


@dataclass(frozen=True)
class HandCaption:
    """What a person says that a picture shows."""

    id: str  # of the picture, as STYLE_SET has it
    file: str  # its name in the source when this was written; only for who reads the file
    caption: str  # one line; never empty


def caption_line(text: str) -> str:
    """``text`` as a caption: one line, without what is no text; empty where it says nothing."""
    line = one_line(without_controls(text))
    return line if says_something(line) else ""


def read_by_hand(path: Path) -> dict[str, HandCaption]:
    """The captions in the file at ``path``, by picture; none where it is not there.

    Raises:
        CaptionError: it is not UTF-8, or a line is not what it must be; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionError(f"{path} cannot be read as UTF-8 text: {error}") from error
    found: dict[str, HandCaption] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        read = _read(line, f"{path}, line {number}")
        if read.id in found:
            raise CaptionError(f"{path}, line {number}: picture {read.id} has one already")
        found[read.id] = read
    return found


def _read(line: str, where: str) -> HandCaption:
    try:
        content = parse_json(line)
    except ValueError as error:
        raise CaptionError(f"{where}: not JSON: {error}") from error
    if not isinstance(content, dict) or sorted(content) != sorted(KEYS):
        raise CaptionError(f"{where}: an object with {', '.join(KEYS)} is needed, and no other key")
    if not all(isinstance(value, str) for value in content.values()):
        raise CaptionError(f"{where}: {', '.join(KEYS)} must be text")
    caption = caption_line(content["caption"])
    if not caption or not content["id"]:
        raise CaptionError(
            f"{where}: id and caption must not be empty or signs alone: take the line out"
        )
    return HandCaption(content["id"], content["file"], caption)


def write_by_hand(path: Path, captions: Mapping[str, HandCaption]) -> None:
    """Write ``captions`` to ``path``, whole or not at all, by the pictures' names."""
    ordered = sorted(captions.values(), key=lambda one: (one.file, one.id))
    lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in ordered)
    write_whole(path, "".join(lines))
