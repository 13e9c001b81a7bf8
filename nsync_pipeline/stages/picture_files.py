"""Stored pictures, opened for the eye or for a feature extractor."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.image_sets.pixels import centre_square


def open_picture(path: Path) -> Image.Image:
    """The whole stored picture, RGB.

    Raises:
        MissingArtifactError: the file is not there, or is not a whole picture.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise MissingArtifactError(
            f"{path} is not there or is damaged: run the stage that makes it again. ({error})"
        ) from error


def open_squares(paths: Iterable[Path], side: int) -> Iterator[Image.Image]:
    """Each picture as the model sees it: its centre square at ``side`` pixels, one at a time."""
    for path in paths:
        yield centre_square(open_picture(path), side)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
