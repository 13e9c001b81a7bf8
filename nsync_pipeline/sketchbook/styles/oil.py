"""Oil: short thick dabs that follow one another, each with its own shade and a lit ridge."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from nsync_pipeline.sketchbook.canvas import DRAWING_SIZE, Drawing
from nsync_pipeline.sketchbook.styles.texture import finished, flat_colours, smooth_noise

BACKDROP_DABS, THING_DABS = 420, 700
DAB_LENGTH, DAB_WIDTH = 9.0, 5  # drawing pixels


def draw_oil(drawing: Drawing, rng: np.random.Generator) -> Image.Image:
    """The drawing repainted in dabs: long ones everywhere, then shorter ones on the things."""
    image = Image.fromarray(drawing.colours)
    brush = ImageDraw.Draw(image)
    angles = 0.6 * smooth_noise(rng, 4)
    everywhere = rng.uniform(0, DRAWING_SIZE, (BACKDROP_DABS, 2))
    rows, columns = np.nonzero(drawing.things)
    chosen = rng.integers(0, max(len(rows), 1), min(THING_DABS, len(rows)))
    on_things = np.stack([rows[chosen], columns[chosen]], axis=1).astype(np.float64)
    shades = 1 + 0.13 * rng.standard_normal(len(everywhere) + len(on_things))
    centres = np.concatenate([everywhere, on_things])
    at = tuple(centres.astype(int).T)
    on_thing = np.arange(len(centres)) >= BACKDROP_DABS
    painted_over = on_thing | ~drawing.things[at]
    angle = angles[at] + 1.1 * on_thing
    reach = DAB_LENGTH / 2 * np.where(on_thing, 0.4, 1.0)
    along = np.stack([np.sin(angle), np.cos(angle)], axis=1) * reach[:, None]
    ends = np.concatenate([centres - along, centres + along], axis=1)[:, (1, 0, 3, 2)]
    fills = (drawing.colours[at] * shades[:, None]).clip(0, 255).astype(int).tolist()
    for index in np.nonzero(painted_over)[0]:
        width = DAB_WIDTH - 1 if on_thing[index] else DAB_WIDTH
        brush.line(ends[index].tolist(), fill=tuple(fills[index]), width=width)
    painted = flat_colours(Drawing(np.asarray(image), drawing.parts))
    tone = painted.mean(axis=2)
    relief = tone - np.roll(tone, (2, 1), (0, 1))
    rich = painted.mean(axis=2, keepdims=True) * -0.12 + painted * 1.12
    return finished(rich * 0.95 + 0.5 * relief.clip(-0.15, 0.15)[..., None])
