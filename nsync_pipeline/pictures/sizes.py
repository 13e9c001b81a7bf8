"""Aspect-ratio buckets: the few sizes that pictures are trained and drawn at, undistorted."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nsync_pipeline.families.family import Family

Size = tuple[int, int]
"""Height and width in pixels."""

WIDEST = 2.0
"""The longer side over the shorter: what is longer still is cut to it."""


@dataclass(frozen=True)
class PictureSizes:
    """Which size each picture is trained and drawn at.

    Args:
        resolution: side in pixels of the square.
        multiple: what both sides of a bucket are multiples of; the square is always one.
        buckets: whether there are others than the square.
    """

    resolution: int
    multiple: int
    buckets: bool

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
    larger. Buckets are ``resolution`` squared, and for each side from a half to twice the
    resolution the longest other side with no more pixels than that square, all sides multiples of
    ``multiple`` and the longer at most ``WIDEST`` times the shorter.

    Raises:
        ValueError: a number is below 1.
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


def picture_sizes(family: Family, buckets: bool) -> PictureSizes:
    """The sizes that ``family`` draws at its resolution.

    Sides are multiples of what the denoiser halves or cuts into patches without a rest, and not
    finer than a sixteenth of the resolution, so that there are no more than a few buckets.
    """
    settings: Any = family.denoiser.config
    levels = settings.get("block_out_channels")
    latents = settings.get("patch_size", 1) if levels is None else 2 ** (len(levels) - 1)
    unit = int(latents) * family.pixels_per_latent
    return PictureSizes(family.resolution, unit * math.ceil(family.resolution / 16 / unit), buckets)
