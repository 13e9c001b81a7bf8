"""Woodblock print (held out): bold key lines, few aged inks, wood grain, a shaded sky."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nsync_pipeline.sketchbook.canvas import DRAWING_SIZE, Drawing
from nsync_pipeline.sketchbook.styles.texture import (
    borders,
    finished,
    flat_colours,
    outlined_parts,
    smooth_noise,
)

KEY_INK = np.array((0.09, 0.1, 0.17), dtype=np.float32)
PAPER = np.array((0.93, 0.87, 0.74), dtype=np.float32)
GRAIN_PERIOD = 11.0  # drawing pixels between two grain lines
SKY = 0


def draw_woodblock(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing as a print: a bold outline, the backdrop's colours aged, grain showing."""
    parts = outlined_parts(drawing)
    inks = flat_colours(drawing)
    aged = np.where(drawing.things, 0.1, 0.42).astype(np.float32)[..., None]
    inks = ((1 - aged) * inks + aged * inks.mean(axis=2, keepdims=True)) * PAPER
    rows = np.arange(DRAWING_SIZE, dtype=np.float32)[:, None]
    bend = 5 * smooth_noise(rng, 4, 3)
    wave = np.sin(2 * np.pi * (rows + bend) / GRAIN_PERIOD + rng.uniform(0, 6.28))
    grain = np.clip((wave - 0.35) * 2.2, 0, 1)
    bokashi = np.clip(1 - rows / 34, 0, 1) * (parts == SKY)
    picture = inks * (1 - 0.5 * bokashi)[..., None]
    strength = np.where(drawing.things, 0.09, 0.2)[..., None]
    picture = picture + (PAPER - picture) * (grain[..., None] * strength)
    picture = picture - 0.1 * (1 - strength) * grain[..., None] * (picture > 0.75)
    lines = borders(parts, 4)
    return finished(np.where(lines[..., None], KEY_INK, picture).astype(np.float32))
