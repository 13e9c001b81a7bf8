"""Mosaic (held out): square stone tiles cut along the shapes, set in pale grout."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nsync_pipeline.sketchbook.canvas import DRAWING_SIZE, PARTS_A_THING, Drawing
from nsync_pipeline.sketchbook.styles.texture import (
    borders,
    finished,
    flat_colours,
    outlined_parts,
    region_means,
    smooth_noise,
)

TILE = 13.0  # drawing pixels: 6.5 in the picture
GROUT = np.array((0.5, 0.46, 0.42), dtype=np.float32)


def draw_mosaic(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing in tiles of one colour each, every tile a slightly different stone."""
    rows, columns = np.mgrid[0:DRAWING_SIZE, 0:DRAWING_SIZE]
    rows = (rows + 1.6 * smooth_noise(rng, 5) + rng.uniform(0, TILE)) // TILE
    columns = (columns + 1.6 * smooth_noise(rng, 5) + rng.uniform(0, TILE)) // TILE
    parts = outlined_parts(drawing)
    cells = ((rows + 4) * 64 + columns + 4).astype(np.int64)
    _, tiles = np.unique(cells * 256 + parts, return_inverse=True)
    tiles = tiles.reshape(parts.shape)
    stones = 1 + 0.12 * rng.standard_normal(int(tiles.max()) + 1).astype(np.float32)
    picture = region_means(flat_colours(drawing), tiles) * stones[tiles][..., None]
    silhouettes = np.where(drawing.things, parts // PARTS_A_THING, parts)
    grout = borders(cells, 2) | borders(silhouettes, 2)
    lit = np.roll(grout, (2, 2), (0, 1)) & ~grout
    picture = np.where(lit[..., None], picture * 0.85 + 0.15, picture)
    return finished(np.where(grout[..., None], GROUT, picture))
