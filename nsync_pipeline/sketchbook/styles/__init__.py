"""How pictures are drawn: six styles the base is pretrained on, four it never sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from nsync_pipeline.sketchbook.canvas import Drawing
from nsync_pipeline.sketchbook.styles.crayon import draw_crayon
from nsync_pipeline.sketchbook.styles.illustration import draw_illustration
from nsync_pipeline.sketchbook.styles.ink import draw_ink
from nsync_pipeline.sketchbook.styles.mosaic import draw_mosaic
from nsync_pipeline.sketchbook.styles.oil import draw_oil
from nsync_pipeline.sketchbook.styles.photo import draw_photo
from nsync_pipeline.sketchbook.styles.pointillist import draw_pointillist
from nsync_pipeline.sketchbook.styles.stained_glass import draw_stained_glass
from nsync_pipeline.sketchbook.styles.watercolor import draw_watercolor
from nsync_pipeline.sketchbook.styles.woodblock import draw_woodblock

StylePainter = Callable[[Drawing, np.random.Generator], Image.Image]

SEEN_PAINTERS: dict[str, StylePainter] = {
    "photo": draw_photo,
    "illustration": draw_illustration,
    "watercolor": draw_watercolor,
    "ink": draw_ink,
    "crayon": draw_crayon,
    "oil": draw_oil,
}
HELD_OUT_PAINTERS: dict[str, StylePainter] = {
    "mosaic": draw_mosaic,
    "pointillist": draw_pointillist,
    "woodblock": draw_woodblock,
    "stained_glass": draw_stained_glass,
}
PAINTERS = SEEN_PAINTERS | HELD_OUT_PAINTERS
