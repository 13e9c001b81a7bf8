"""Stored pictures as tensors, and the sizes they are trained and drawn at."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.pictures.decoding import FORMATS, normalised, without_pixel_limit
from nsync_pipeline.pictures.layout import damaged, picture_file

if TYPE_CHECKING:
    from torch import Tensor

    from nsync_pipeline.families.family import Family

Size = tuple[int, int]  # height and width in pixels
WIDEST = 2.0  # the longer side over the shorter: what is longer still is cut to it


@dataclass(frozen=True)
class PictureSizes:
    """Which size each picture is trained and drawn at."""

    resolution: int  # side in pixels of the square
    multiple: int  # what both sides of a bucket are multiples of; the square is always one
    buckets: bool  # whether there are others than the square

    def of(self, width: int, height: int) -> Size:
        """The size, height first, for a picture of ``width`` x ``height`` pixels."""
        if not self.buckets:
            return self.resolution, self.resolution
        return bucket_of(width, height, self.resolution, self.multiple)

    def asked_for(self, width: int, height: int) -> Size | None:
        """The same, as a picture to draw is asked for: None is the square."""
        size = self.of(width, height)
        return None if size == (self.resolution, self.resolution) else size


def bucket_of(width: int, height: int, resolution: int, multiple: int) -> Size:
    """The bucket, height first, whose aspect is nearest to that of ``width`` x ``height``.

    Nearest is the smallest ``|log(aspect / bucket's aspect)|``; of two that are as near, the
    larger. Buckets are ``resolution`` squared, and for each shorter side the longest other one with
    no more pixels than that square, all sides multiples of ``multiple`` and the longer at most
    ``WIDEST`` times the shorter. ValueError where a number is below 1.
    """
    if min(width, height, resolution, multiple) < 1:
        raise ValueError("sides, resolution and multiple are 1 or more")
    aspect = math.log(width / height)

    def distance(size: Size) -> tuple[float, int]:
        return round(abs(aspect - math.log(size[1] / size[0])), 9), -size[0] * size[1]

    return min(_buckets(resolution, multiple), key=distance)


@lru_cache(maxsize=8)
def _buckets(resolution: int, multiple: int) -> tuple[Size, ...]:
    sizes = {(resolution, resolution)}
    for shorter in range(multiple, resolution, multiple):
        longer = resolution**2 // shorter // multiple * multiple
        if resolution < longer <= WIDEST * shorter:
            sizes |= {(shorter, longer), (longer, shorter)}
    return tuple(sorted(sizes))


def picture_sizes(family: "Family", buckets: bool) -> PictureSizes:
    """The sizes that ``family`` draws at its resolution.

    Sides are multiples of what the denoiser halves or cuts into patches without a rest, and not
    finer than a sixteenth of the resolution, so that there are no more than a few buckets.
    """
    settings: Any = family.denoiser.config
    levels = settings.get("block_out_channels")
    latents = family.patch if levels is None else 2 ** (len(levels) - 1)
    unit = int(latents) * family.pixels_per_latent
    return PictureSizes(family.resolution, unit * math.ceil(family.resolution / 16 / unit), buckets)


def load_pixels(path: Path, size: Size, stretch: bool = False) -> "Tensor":
    """The stored picture at ``path`` as a model sees it: (3, height, width) in [-1, 1].

    It is cut and resized as ``centre_cut`` does, and mapped by ``x / 127.5 - 1`` (float32).
    ``stretch``: nothing is cut off, and the aspect is not kept.

    Raises:
        MissingArtifactError: as ``open_picture``.
    """
    import torch  # only here: whoever looks at a picture needs none of it

    array = np.array(centre_cut(open_picture(path), size, stretch), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous() / 127.5 - 1.0


@dataclass(frozen=True)
class Cut:
    """What is kept of a picture, in its own pixels."""

    left: int
    top: int
    width: int
    height: int


def cut_of(width: int, height: int, size: Size, stretch: bool = False) -> Cut:
    """The largest centred part of a ``width`` x ``height`` picture with the aspect of ``size``.

    Where a margin is odd, its larger half is on the right or at the bottom. ``stretch``: all of it.
    """
    if stretch:
        return Cut(0, 0, width, height)
    target_height, target_width = size
    if width * target_height > height * target_width:
        kept = Cut(0, 0, max(1, round(height * target_width / target_height)), height)
    else:
        kept = Cut(0, 0, width, max(1, round(width * target_height / target_width)))
    return Cut((width - kept.width) // 2, (height - kept.height) // 2, kept.width, kept.height)


def centre_cut(image: Image.Image, size: Size, stretch: bool = False) -> Image.Image:
    """The part of ``image`` that ``cut_of`` keeps, at ``size``, height first (Lanczos)."""
    cut = cut_of(image.width, image.height, size, stretch)
    kept = image.crop((cut.left, cut.top, cut.left + cut.width, cut.top + cut.height))
    height, width = size
    if kept.size == (width, height):
        return kept
    return kept.resize((width, height), Image.Resampling.LANCZOS)


def centre_square(image: Image.Image, side: int) -> Image.Image:
    return centre_cut(image, (side, side))


def geometry_of(
    width: int, height: int, size: Size, stretch: bool = False, mirrored: bool = False
) -> tuple[int, int, int, int, int, int]:
    """What a model may be told of a picture cut to ``size``, or of its mirror image: pixels.

    Original height and width; top and left of the cut in the picture *resized* so that the cut has
    ``size``; the height and width of ``size``. Source: Podell et al., SDXL (arXiv 2307.01952),
    section 2.2.
    """
    cut = cut_of(width, height, size, stretch)
    beside = width - cut.width - cut.left if mirrored else cut.left
    top = round(cut.top * size[0] / cut.height)
    left = round(beside * size[1] / cut.width)
    return height, width, top, left, *size


def open_picture(path: Path) -> Image.Image:
    """The whole stored picture, ``normalised``: of a style set, a person's file is stored as it is.

    Raises:
        MissingArtifactError: the file is not there, or is not a whole picture.
    """
    try:
        with without_pixel_limit(), Image.open(picture_file(path), formats=FORMATS) as image:
            image.load()
            return normalised(image)
    except (MissingArtifactError, MemoryError):
        raise
    except Exception as error:  # a decoder raises almost anything on damaged data
        raise damaged(path, error) from error


def open_squares(paths: Iterable[Path], side: int) -> Iterator[Image.Image]:
    """The centre square of each picture, at ``side`` pixels, one at a time."""
    for path in paths:
        yield centre_square(open_picture(path), side)
