"""Pictures of nothing, so that the autoencoder learns texture beyond the seen styles.

Gratings, slopes, coloured noise, polygons and strokes at random scales. None imitates a
held-out style: no dots, no tiles, no outlines around shapes.
"""

import math
import zlib

import numpy as np
from PIL import Image, ImageDraw

from nsync_pipeline.sketchbook.canvas import DRAWING_SIZE, SUPERSAMPLING
from nsync_pipeline.sketchbook.texture import Field, finished

_SIDE = DRAWING_SIZE


def abstract_picture(seed: int, index: int) -> Image.Image:
    """Picture `index` of the seed: one to three layers laid over one another. 128 x 128 RGB."""
    rng = np.random.default_rng([seed, zlib.crc32(b"abstract"), index])
    picture = _slope(rng)
    for _ in range(int(rng.integers(1, 4))):
        layer = (_grating, _noise, _shapes)[int(rng.integers(3))]
        picture = layer(picture, rng)
    return finished(picture)


def _colour(rng: np.random.Generator) -> Field:
    return rng.uniform(0, 1, 3).astype(np.float32)


def _slope(rng: np.random.Generator) -> Field:
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float32) / _SIDE - 0.5
    angle = rng.uniform(0, math.tau)
    along = (rows * math.sin(angle) + columns * math.cos(angle) + 0.5).clip(0, 1)[..., None]
    slope: Field = (_colour(rng) * (1 - along) + _colour(rng) * along).astype(np.float32)
    return slope


def _grating(picture: Field, rng: np.random.Generator) -> Field:
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float32)
    period = SUPERSAMPLING * math.exp(rng.uniform(math.log(2.5), math.log(48)))
    angle = rng.uniform(0, math.tau)
    phase = (rows * math.sin(angle) + columns * math.cos(angle)) / period + rng.uniform(0, 1)
    bend = rng.uniform(0, 1) * np.sin(math.tau * columns / rng.uniform(60, 240))
    wave = np.sin(math.tau * (phase + bend)) * rng.uniform(1, 6)
    cover = (rng.uniform(0.3, 1) * (wave.clip(-1, 1) + 1) / 2)[..., None]
    laid: Field = (picture * (1 - cover) + _colour(rng) * cover).astype(np.float32)
    return laid


def _noise(picture: Field, rng: np.random.Generator) -> Field:
    cells = int(math.exp(rng.uniform(math.log(4), math.log(110))))
    stretch = int(rng.integers(1, 4))
    channels = 3 if rng.random() < 0.5 else 1
    way = Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.BILINEAR
    fields = []
    for _ in range(channels):
        coarse = rng.standard_normal((max(2, cells // stretch), cells)).astype(np.float32)
        fields.append(np.asarray(Image.fromarray(coarse).resize((_SIDE, _SIDE), way)))
    noise = np.stack(fields, axis=2) * np.float32(rng.uniform(0.04, 0.3))
    laid: Field = (picture + noise).clip(0, 1).astype(np.float32)
    return laid


def _shapes(picture: Field, rng: np.random.Generator) -> Field:
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    brush = ImageDraw.Draw(image)
    reach = math.exp(rng.uniform(math.log(6), math.log(100)))
    for _ in range(int(rng.integers(3, 70))):
        red, green, blue = rng.integers(0, 256, 3).tolist()
        corners = rng.uniform(0, _SIDE, 2) + rng.uniform(
            -reach, reach, (int(rng.integers(2, 6)), 2)
        )
        points = [(float(x), float(y)) for x, y in corners]
        if rng.random() < 0.5:
            brush.polygon(points, fill=(red, green, blue))
        else:
            brush.line(points, fill=(red, green, blue), width=int(rng.integers(2, 14)))
    return np.asarray(image).astype(np.float32) / np.float32(255)
