"""One split of a style set with its captions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nsync_pipeline.artifacts import MANIFEST_FILE, Workspace
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.image_sets.manifest import CAPTIONS, STYLE_SET, read_manifest


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture of the style set."""

    id: str
    path: Path
    caption: str  # content only
    width: int  # pixels
    height: int  # pixels


def captioned_split(
    workspace: Workspace, style: str, split: Literal["train", "test"]
) -> list[CaptionedPicture]:
    """The pictures of ``split``, by id.

    Raises:
        MissingArtifactError: a manifest is missing, the split is empty, or a caption is missing.
    """
    folder = workspace.style_set(style)
    rows = read_manifest(folder / MANIFEST_FILE, STYLE_SET)
    captions = {
        row["id"]: row["caption"]
        for row in read_manifest(workspace.captions(style) / MANIFEST_FILE, CAPTIONS)
    }
    chosen = sorted((row for row in rows if row["split"] == split), key=lambda row: row["id"])
    if not chosen:
        raise MissingArtifactError(
            f"{style}: there is no {split} picture in {folder}; add pictures, or change "
            "style_set.test_fraction."
        )
    uncaptioned = [row["origin"] for row in chosen if row["id"] not in captions]
    if uncaptioned:
        raise MissingArtifactError(
            f"{style}: {len(uncaptioned)} pictures have no caption yet, the first is "
            f"{uncaptioned[0]}: run the captions stage again."
        )
    return [
        CaptionedPicture(
            row["id"], folder / row["file"], captions[row["id"]], row["width"], row["height"]
        )
        for row in chosen
    ]
