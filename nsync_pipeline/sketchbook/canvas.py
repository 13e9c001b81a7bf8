"""A flat colour drawing together with the map of its parts: what every style starts from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nsync_pipeline.sketchbook.scene import Rgb

PICTURE_SIZE = 64  # pixels, the finished picture's side
SUPERSAMPLING = 2  # drawings are made this much larger, and averaged down by the styles
DRAWING_SIZE = PICTURE_SIZE * SUPERSAMPLING
FIRST_THING_PART = 32  # part numbers below belong to sky and ground
PARTS_A_THING = 16  # part numbers reserved for each thing

Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """A scene in flat colours, before any style."""

    colours: NDArray[np.uint8]  # (128, 128, 3) RGB
    parts: NDArray[np.uint8]  # (128, 128) which part covers the pixel; >= 32: a thing's

    @property
    def things(self) -> NDArray[np.bool_]:
        """(128, 128) where an object is, rather than sky or ground."""
        return self.parts >= FIRST_THING_PART


class Canvas:
    """Draws shapes, in units of finished-picture pixels, into colours and parts at once."""

    def __init__(self) -> None:
        """A black canvas, all of it part 0."""
        self._colours = Image.new("RGB", (DRAWING_SIZE, DRAWING_SIZE))
        self._parts = Image.new("L", (DRAWING_SIZE, DRAWING_SIZE))
        self._draws = (ImageDraw.Draw(self._colours), ImageDraw.Draw(self._parts))
        self._part = 0

    def start_part(self, part: int) -> None:
        """Shapes from here on belong to `part`."""
        self._part = part

    def next_part(self) -> None:
        """Shapes from here on belong to a new part, the next number."""
        self._part += 1

    def polygon(self, points: Sequence[Point], colour: Rgb) -> None:
        """A filled polygon."""
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        self._draws[0].polygon(scaled, fill=colour)
        self._draws[1].polygon(scaled, fill=self._part)

    def ellipse(self, centre: Point, radii: Point, colour: Rgb) -> None:
        """A filled ellipse."""
        box = _box(centre, radii)
        self._draws[0].ellipse(box, fill=colour)
        self._draws[1].ellipse(box, fill=self._part)

    def half_ellipse(self, centre: Point, radii: Point, colour: Rgb) -> None:
        """The upper half of a filled ellipse."""
        box = _box(centre, radii)
        self._draws[0].pieslice(box, 180, 360, fill=colour)
        self._draws[1].pieslice(box, 180, 360, fill=self._part)

    def line(self, points: Sequence[Point], colour: Rgb, width: float) -> None:
        """A polyline of `width` picture pixels."""
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        thickness = max(1, round(width * SUPERSAMPLING))
        self._draws[0].line(scaled, fill=colour, width=thickness, joint="curve")
        self._draws[1].line(scaled, fill=self._part, width=thickness, joint="curve")

    def finish(self) -> Drawing:
        """The drawing as arrays."""
        return Drawing(colours=np.asarray(self._colours), parts=np.asarray(self._parts))


def _box(centre: Point, radii: Point) -> tuple[float, float, float, float]:
    x, y, scale = centre[0], centre[1], SUPERSAMPLING
    return (
        (x - radii[0]) * scale,
        (y - radii[1]) * scale,
        (x + radii[0]) * scale,
        (y + radii[1]) * scale,
    )
