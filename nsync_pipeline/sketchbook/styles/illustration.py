"""Flat illustration: clean even colours, nothing else."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nsync_pipeline.sketchbook.canvas import Drawing
from nsync_pipeline.sketchbook.styles.texture import finished, flat_colours


def draw_illustration(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing as it is, a little more saturated; `rng` sets the exact saturation."""
    picture = flat_colours(drawing)
    grey = picture.mean(axis=2, keepdims=True)
    saturation = np.float32(rng.uniform(1.1, 1.2))
    return finished(grey + (picture - grey) * saturation)
