"""What the stages that draw pictures share: placing them in an artefact, and showing them."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nsync_pipeline.image_sets.contact_sheet import evenly_spaced, preview
from nsync_pipeline.stages.context import Preview
from nsync_pipeline.stages.picture_files import open_squares

PREVIEW_SIDE = 96  # pixels
PREVIEW_COLUMNS = 8


def place_pictures(drawn: Mapping[str, Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Copy the drawn pictures to ``folder/images/<id>.png``; their manifest columns by id."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    columns = {}
    for name, source in drawn.items():
        file = images / f"{name}.png"
        shutil.copyfile(source, file)
        with Image.open(file) as image:
            width, height = image.size
        columns[name] = {
            "id": name,
            "file": f"images/{name}.png",
            "sha256": file_sha256(file),
            "width": width,
            "height": height,
        }
    return columns


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sheet(title: str, groups: Sequence[Sequence[Path]], most: int) -> Preview:
    """At most ``most`` of ``groups`` of pictures that belong side by side, evenly spaced."""
    shown = [groups[index] for index in evenly_spaced(len(groups), most)]
    squares = open_squares([path for group in shown for path in group], PREVIEW_SIDE)
    return Preview(title, preview(title, list(squares), PREVIEW_COLUMNS, PREVIEW_SIDE))
