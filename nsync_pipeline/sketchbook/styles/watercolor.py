"""Watercolour: thin washes on paper, pigment pooling at the edges, wavering outlines."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nsync_pipeline.sketchbook.canvas import Drawing
from nsync_pipeline.sketchbook.styles.texture import (
    blurred,
    borders,
    finished,
    flat_colours,
    outlined_parts,
    smooth_noise,
    warped,
)

PAPER = np.array((0.98, 0.965, 0.93), dtype=np.float32)


def draw_watercolor(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing as washes of colour on white paper."""
    edges = borders(outlined_parts(drawing), 3).astype(np.float32)[..., None]
    sheet = np.concatenate([blurred(flat_colours(drawing), 1.0), edges], axis=2)
    sheet = warped(sheet, rng, 1.6, 14)
    wash, pooled = sheet[..., :3], blurred(sheet[..., 3], 0.8)
    pigment = 0.66 + 0.13 * smooth_noise(rng, 9) + 0.34 * pooled
    pigment = pigment + 0.05 * smooth_noise(rng, 48)
    border = np.minimum.outer(*(2 * [np.minimum(np.arange(128), np.arange(127, -1, -1))]))
    wet = np.clip((border + 3 * smooth_noise(rng, 20) - 5) / 3, 0, 1)
    strength = (np.clip(pigment, 0.2, 1.1) * wet).astype(np.float32)[..., None]
    return finished(PAPER * (1 - strength + strength * wash * 1.04))
