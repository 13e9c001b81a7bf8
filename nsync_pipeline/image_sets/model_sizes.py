"""The sizes at which a base model is trained and draws."""

import math
from typing import Any

from nsync_pipeline.families.family import Family
from nsync_pipeline.image_sets.buckets import PictureSizes


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
