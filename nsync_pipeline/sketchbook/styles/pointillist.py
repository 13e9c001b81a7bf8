"""Pointillist (held out): round dots of broken colour on a warm canvas."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from nsync_pipeline.sketchbook.canvas import DRAWING_SIZE, Drawing
from nsync_pipeline.sketchbook.styles.texture import finished, flat_colours

BACKDROP_SPACING, THING_SPACING = 8.4, 6.8  # drawing pixels between dots: about 4 in the picture
RADIUS_SHARE = 0.46  # of the spacing
CANVAS_TONE = (242, 230, 202)


def draw_pointillist(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing in dots; some take the complementary hue, as divisionists paint."""
    image = Image.new("RGB", (DRAWING_SIZE, DRAWING_SIZE), CANVAS_TONE)
    brush = ImageDraw.Draw(image)
    _dot(brush, drawing, BACKDROP_SPACING, 0.2, rng, only_things=False)
    _dot(brush, drawing, THING_SPACING, 0.08, rng, only_things=True)
    return finished(flat_colours(Drawing(np.asarray(image), drawing.parts)))


def _dot(
    brush: ImageDraw.ImageDraw,
    drawing: Drawing,
    spacing: float,
    complements: float,
    rng: np.random.Generator,
    only_things: bool,
) -> None:
    """Set dots of local colour on a jittered hexagonal grid, on the backdrop or the things."""
    side = int(DRAWING_SIZE / (spacing * 0.866)) + 2
    rows, columns = np.mgrid[0:side, 0:side].reshape(2, -1)
    ys = rows * spacing * 0.866 + rng.uniform(-0.11, 0.11, rows.shape) * spacing
    xs = (columns + rows % 2 / 2) * spacing + rng.uniform(-0.11, 0.11, rows.shape) * spacing
    last = DRAWING_SIZE - 1
    at = (ys.astype(int).clip(0, last), xs.astype(int).clip(0, last))
    colours = drawing.colours[at] * rng.uniform(0.86, 1.14, (len(xs), 1))
    grey = colours.mean(axis=1, keepdims=True)
    complementary = rng.random((len(xs), 1)) < complements
    fills = np.where(complementary, grey + 0.8 * (grey - colours), colours)
    fills = fills.clip(0, 255).astype(int)
    radii = spacing * (RADIUS_SHARE + rng.uniform(-0.04, 0.04, len(xs)))
    circles = np.stack([xs - radii, ys - radii, xs + radii, ys + radii], axis=1).tolist()
    for index in np.nonzero(drawing.things[at] == only_things)[0]:
        brush.ellipse(circles[index], fill=tuple(fills[index].tolist()))
