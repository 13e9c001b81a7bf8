"""The grain, edges and averaging that styles are made of; pictures here are float in 0..1."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from nsync_pipeline.sketchbook.canvas import DRAWING_SIZE, SUPERSAMPLING, Drawing

Field = NDArray[np.float32]  # (256, 256), or (256, 256, 3) where it is a picture
_GROUND_MARKS = (2, 3)  # tufts, pebbles and waves: no outline of their own
_GROUND = 1


def flat_colours(drawing: Drawing) -> Field:
    """(256, 256, 3) the drawing's colours as floats in 0..1."""
    return drawing.colours.astype(np.float32) / np.float32(255)


def finished(picture: Field) -> Image.Image:
    """Average a (256, 256, 3) picture down to 128 x 128 RGB."""
    side = DRAWING_SIZE // SUPERSAMPLING
    blocks = picture.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING, 3).mean(axis=(1, 3))
    return Image.fromarray((blocks.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def smooth_noise(rng: np.random.Generator, rows: int, columns: int | None = None) -> Field:
    """(256, 256) noise of about unit variance, with `rows` x `columns` bumps."""
    coarse = rng.standard_normal((rows, columns or rows)).astype(np.float32)
    size = (DRAWING_SIZE, DRAWING_SIZE)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def blurred(picture: Field, sigma: float) -> Field:
    """Gaussian blur over the two picture axes, `sigma` in drawing pixels."""
    sigmas = (sigma, sigma, 0)[: picture.ndim]
    return np.asarray(ndimage.gaussian_filter(picture, sigmas, truncate=2.5))


def outlined_parts(drawing: Drawing) -> NDArray[np.uint8]:
    """(256, 256) part numbers with the ground's small marks counted as ground."""
    parts = drawing.parts.copy()
    parts[np.isin(parts, _GROUND_MARKS)] = _GROUND
    return parts


def borders(regions: NDArray[np.generic], thickness: int) -> NDArray[np.bool_]:
    """(256, 256) whether a border between regions is near: lines `thickness` pixels wide."""
    edge = np.zeros(regions.shape, dtype=bool)
    edge[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    edge[1:] |= regions[1:] != regions[:-1]
    return np.asarray(ndimage.maximum_filter(edge, size=thickness))


def warped(picture: Field, rng: np.random.Generator, amount: float, bumps: int) -> Field:
    """The picture displaced by smooth noise of `amount` drawing pixels."""
    rows, columns = np.mgrid[0:DRAWING_SIZE, 0:DRAWING_SIZE]
    rows = rows + amount * smooth_noise(rng, bumps)
    columns = columns + amount * smooth_noise(rng, bumps)
    last = DRAWING_SIZE - 1
    nearest: Field = picture[
        np.rint(rows).astype(int).clip(0, last), np.rint(columns).astype(int).clip(0, last)
    ]
    return nearest


def region_means(picture: Field, regions: NDArray[np.int64]) -> Field:
    """(256, 256, 3) every region filled with its mean colour; regions are numbered from 0."""
    flat = regions.ravel()
    sizes = np.maximum(np.bincount(flat), 1)
    channels = [picture[..., channel].ravel() for channel in range(3)]
    means = np.stack([np.bincount(flat, weights=c) / sizes for c in channels], axis=1)
    filled: Field = means[regions].astype(np.float32)
    return filled
