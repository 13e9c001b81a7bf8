"""Photograph: rounded light on the things, a shadow on the ground, depth blur, film grain."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nsync_pipeline.sketchbook.canvas import Drawing
from nsync_pipeline.sketchbook.styles.texture import Field, blurred, finished, flat_colours


def draw_photo(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing as a photograph, lit from the upper left."""
    things = drawing.things.astype(np.float32)
    soft = blurred(things, 7)
    light = np.roll(soft, (-5, -5), (0, 1)) - np.roll(soft, (5, 5), (0, 1))
    shadow = np.roll(blurred(things, 4), (5, 9), (0, 1)) * (1 - things)
    picture = flat_colours(drawing)
    backdrop = blurred(picture, 2.2)
    depth = np.linspace(1.06, 0.9, picture.shape[0], dtype=np.float32)[:, None, None]
    picture = np.where(things[..., None] > 0, blurred(picture, 0.8), backdrop * depth)
    picture = picture * (1 - 0.55 * light * things)[..., None]
    picture = picture + np.clip(-light * things, 0, 1)[..., None] * 0.25
    picture = picture * (1 - 0.45 * shadow)[..., None]
    axis = np.linspace(-1, 1, picture.shape[0], dtype=np.float32)
    vignette = 1 - 0.22 * (axis[:, None] ** 2 + axis[None] ** 2)
    grain = rng.standard_normal((*things.shape, 1)).astype(np.float32) * 0.018
    developed: Field = picture * vignette[..., None] * 0.97 + grain
    return finished(developed)
