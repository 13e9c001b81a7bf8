"""Stained glass (held out): glowing panes between dark leads."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from nsync_pipeline.sketchbook.canvas import DRAWING_SIZE, Drawing
from nsync_pipeline.sketchbook.styles.texture import (
    blurred,
    borders,
    finished,
    flat_colours,
    outlined_parts,
    region_means,
)

PANE = 21.0  # drawing pixels: a little over 10 in the picture
LEAD = np.array((0.07, 0.07, 0.09), dtype=np.float32)


def draw_stained_glass(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing as a window: panes are cut along the shapes and shine in the middle."""
    count = int(np.ceil(DRAWING_SIZE / PANE)) + 1
    grid = np.moveaxis(np.mgrid[0:count, 0:count], 0, -1).reshape(-1, 2) * PANE
    seeds = grid + rng.uniform(-0.42, 0.42, grid.shape) * PANE
    pixels = np.moveaxis(np.mgrid[0:DRAWING_SIZE, 0:DRAWING_SIZE], 0, -1).reshape(-1, 2)
    _, nearest = cKDTree(seeds).query(pixels)
    cells = nearest.reshape(DRAWING_SIZE, DRAWING_SIZE)
    cells = np.where(drawing.things, 0, cells)  # things are panes of their own
    parts = outlined_parts(drawing)
    _, panes = np.unique(cells * 256 + parts, return_inverse=True)
    panes = panes.reshape(parts.shape)
    picture = region_means(flat_colours(drawing), panes)
    grey = picture.mean(axis=2, keepdims=True)
    hues = rng.normal(1, 0.09, (int(panes.max()) + 1, 3)).astype(np.float32)
    glass = (grey + (picture - grey) * 1.5) * hues[panes]
    leads = borders(panes, 4)
    glow = blurred((~leads).astype(np.float32), 3.0)[..., None]
    glass = glass * (0.45 + 0.68 * glow) + 0.06 * glow
    return finished(np.where(leads[..., None], LEAD, glass).astype(np.float32))
