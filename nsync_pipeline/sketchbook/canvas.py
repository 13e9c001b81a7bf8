"""A flat colour drawing together with the map of its parts: what every style starts from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nsync_pipeline.sketchbook.scene import Rgb

PICTURE_SIZE = 128  # pixels, the finished picture's side
SCENE_SIDE = 64.0  # units in which scenes are composed: positions do not depend on the pixels
SUPERSAMPLING = 2  # drawings are made this much larger, and averaged down by the styles
DRAWING_SIZE = PICTURE_SIZE * SUPERSAMPLING
_SCALE = DRAWING_SIZE / SCENE_SIDE  # drawing pixels a scene unit
FIRST_THING_PART = 32  # part numbers below belong to sky and ground
PARTS_A_THING = 16  # part numbers reserved for each thing

Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """A scene in flat colours, before any style."""

    colours: NDArray[np.uint8]  # (256, 256, 3) RGB
    parts: NDArray[np.uint8]  # (256, 256) which part covers the pixel; >= 32: a thing's

    @property
    def things(self) -> NDArray[np.bool_]:
        """(256, 256) where an object is, rather than sky or ground."""
        return self.parts >= FIRST_THING_PART


class Canvas:
    """Draws shapes, in scene units, into colours and parts at once."""

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
        for draw, fill in self._inks(colour):
            draw.polygon(_scaled(points), fill=fill)

    def ellipse(self, centre: Point, radii: Point, colour: Rgb) -> None:
        """A filled ellipse."""
        for draw, fill in self._inks(colour):
            draw.ellipse(_box(centre, radii), fill=fill)

    def half_ellipse(self, centre: Point, radii: Point, colour: Rgb) -> None:
        """The upper half of a filled ellipse."""
        for draw, fill in self._inks(colour):
            draw.pieslice(_box(centre, radii), 180, 360, fill=fill)

    def line(self, points: Sequence[Point], colour: Rgb, width: float) -> None:
        """A polyline, `width` scene units wide."""
        thickness = max(1, round(width * _SCALE))
        for draw, fill in self._inks(colour):
            draw.line(_scaled(points), fill=fill, width=thickness, joint="curve")

    def _inks(self, colour: Rgb) -> tuple[tuple[ImageDraw.ImageDraw, Rgb | int], ...]:
        return (self._draws[0], colour), (self._draws[1], self._part)

    def finish(self) -> Drawing:
        """The drawing as arrays."""
        return Drawing(colours=np.asarray(self._colours), parts=np.asarray(self._parts))


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]


def _box(centre: Point, radii: Point) -> list[Point]:
    (x, y), (across, down) = centre, radii
    return _scaled([(x - across, y - down), (x + across, y + down)])
