"""Wax crayon: slanted streaks that leave the paper's grain white."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nsync_pipeline.sketchbook.canvas import DRAWING_SIZE, Drawing
from nsync_pipeline.sketchbook.styles.texture import (
    blurred,
    borders,
    finished,
    flat_colours,
    outlined_parts,
    warped,
)

PAPER = np.float32(0.985)
STREAK_LENGTH = 13  # drawing pixels


def draw_crayon(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing in wax: streaks slant one way on the things, the other way behind them."""
    noise = rng.standard_normal((DRAWING_SIZE, DRAWING_SIZE)).astype(np.float32)
    noise = blurred(noise, 0.7)
    steps = range(STREAK_LENGTH)
    rising = np.sum([np.roll(noise, (step, -step), (0, 1)) for step in steps], axis=0)
    falling = np.sum([np.roll(noise, (step, step), (0, 1)) for step in steps], axis=0)
    streaks = np.where(drawing.things, falling, rising)
    streaks = streaks / streaks.std()
    coverage = 1 / (1 + np.exp(-2.6 * (streaks + 0.7)))
    edges = borders(outlined_parts(drawing), 3)
    colours = flat_colours(drawing)
    colours = np.where(edges[..., None], colours * 0.72, colours)
    coverage = np.where(edges, np.maximum(coverage, 0.75), coverage).astype(np.float32)
    sheet = np.concatenate([colours, coverage[..., None]], axis=2)
    sheet = warped(sheet, rng, 1.2, 22)
    return finished(PAPER + (sheet[..., :3] - PAPER) * sheet[..., 3:])
