"""Ink: black outlines and hatching on cream paper, a light tint on the things."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nsync_pipeline.sketchbook.canvas import Drawing
from nsync_pipeline.sketchbook.styles.texture import (
    borders,
    finished,
    flat_colours,
    outlined_parts,
    warped,
)

PAPER = np.array((0.965, 0.945, 0.895), dtype=np.float32)
INK = np.array((0.1, 0.1, 0.14), dtype=np.float32)
HATCHING_PERIOD = 9  # drawing pixels between two strokes


def draw_ink(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing as a pen drawing: darker places are hatched, very dark ones both ways."""
    colours = flat_colours(drawing)
    darkness = 1 - colours @ np.array((0.3, 0.59, 0.11), dtype=np.float32)
    rows, columns = np.mgrid[0 : colours.shape[0], 0 : colours.shape[1]]
    offset = int(rng.integers(HATCHING_PERIOD))
    rising = (rows + columns + offset) % HATCHING_PERIOD < 2
    falling = (rows - columns + offset) % HATCHING_PERIOD < 2
    backdrop = ~drawing.things
    hatched = (rising & (darkness > 0.36) | falling & (darkness > 0.66)) & backdrop
    hatched |= rising & (darkness > 0.45) & ~backdrop
    lines = borders(outlined_parts(drawing), 3) | hatched
    tint = np.where(backdrop[..., None], 0.12, 0.62).astype(np.float32)
    paper = PAPER * (1 - tint + tint * colours * 1.05)
    return finished(warped(np.where(lines[..., None], INK, paper), rng, 0.7, 24))
