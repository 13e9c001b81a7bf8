"""Stored pictures as tensors."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.pictures.sizes import Size


def load_pixels(path: Path, size: Size) -> Tensor:
    """The stored picture at ``path`` as a model sees it: (3, height, width) in [-1, 1].

    It is cut and resized as ``centre_cut`` does, and mapped by ``x / 127.5 - 1`` (float32).

    Raises:
        MissingArtifactError: the file is not there, or is not a whole picture.
    """
    try:
        with Image.open(path) as image:
            cut = centre_cut(image.convert("RGB"), size)
    except (OSError, UnidentifiedImageError) as error:
        raise MissingArtifactError(
            f"{path} is not there or is damaged: run the stage that makes it again. ({error})"
        ) from error
    return pixels_of(cut)


def pixels_of(image: Image.Image) -> Tensor:
    """An RGB image ``(H, W)`` as a float32 tensor ``(3, H, W)`` in [-1, 1]."""
    array = np.array(image, dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous() / 127.5 - 1.0


@dataclass(frozen=True)
class Cut:
    """What is kept of a picture, in its own pixels."""

    left: int
    top: int
    width: int
    height: int


def cut_of(width: int, height: int, size: Size) -> Cut:
    """The largest centred part of a ``width`` x ``height`` picture with the aspect of ``size``.

    Where a margin is odd, its larger half is on the right or at the bottom.
    """
    target_height, target_width = size
    if width * target_height > height * target_width:
        kept = Cut(0, 0, max(1, round(height * target_width / target_height)), height)
    else:
        kept = Cut(0, 0, width, max(1, round(width * target_height / target_width)))
    return Cut((width - kept.width) // 2, (height - kept.height) // 2, kept.width, kept.height)


def centre_cut(image: Image.Image, size: Size) -> Image.Image:
    """The part of ``image`` that ``cut_of`` keeps, at ``size``, height first (Lanczos)."""
    cut = cut_of(image.width, image.height, size)
    kept = image.crop((cut.left, cut.top, cut.left + cut.width, cut.top + cut.height))
    height, width = size
    if kept.size == (width, height):
        return kept
    return kept.resize((width, height), Image.Resampling.LANCZOS)


def centre_square(image: Image.Image, side: int) -> Image.Image:
    """The largest centred square of ``image``, at ``side`` x ``side`` pixels (Lanczos)."""
    return centre_cut(image, (side, side))


def geometry_of(width: int, height: int, size: Size) -> tuple[int, int, int, int, int, int]:
    """What a model may be told of a picture cut to ``size``: pixels.

    Original height and width; top and left of the cut in the picture *resized* so that the cut has
    ``size``; the height and width of ``size``. Source: Podell et al., SDXL (arXiv 2307.01952),
    section 2.2.
    """
    cut = cut_of(width, height, size)
    top = round(cut.top * size[0] / cut.height)
    left = round(cut.left * size[1] / cut.width)
    return height, width, top, left, *size


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
