"""The eight objects, as shapes in a unit box (x right, y down, both from -1 to 1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from nsync_pipeline.sketchbook.canvas import Canvas, Point
from nsync_pipeline.sketchbook.scene import COLOURS, Rgb, Thing

BROWN: Rgb = (122, 80, 48)
CREAM: Rgb = (246, 234, 206)
GLASS: Rgb = (214, 236, 246)
TYRE: Rgb = (62, 60, 66)
LEAF: Rgb = (70, 140, 60)
WHITE: Rgb = (250, 250, 246)


@dataclass(frozen=True)
class Box:
    """Where an object stands: centre and half side in scene units, and whether mirrored."""

    x: float
    y: float
    half: float
    mirrored: bool

    def at(self, x: float, y: float) -> Point:
        """The scene point of unit-box point (x, y)."""
        return self.x + (-x if self.mirrored else x) * self.half, self.y + y * self.half

    def path(self, *points: Point) -> list[Point]:
        """Several unit-box points."""
        return [self.at(x, y) for x, y in points]

    def size(self, x: float, y: float) -> Point:
        """Unit-box lengths in scene units."""
        return x * self.half, y * self.half


def darker(colour: Rgb, share: float = 0.7) -> Rgb:
    """The colour at `share` of its brightness."""
    return (int(colour[0] * share), int(colour[1] * share), int(colour[2] * share))


def lighter(colour: Rgb, share: float = 0.45) -> Rgb:
    """The colour mixed with `share` of white."""
    red, green, blue = (int(value + (255 - value) * share) for value in colour)
    return red, green, blue


def _house(canvas: Canvas, box: Box, paint: Rgb) -> None:
    canvas.polygon(box.path((-0.72, -0.1), (0.72, -0.1), (0.72, 1), (-0.72, 1)), paint)
    canvas.next_part()
    canvas.polygon(box.path((0.36, -0.95), (0.6, -0.95), (0.6, -0.3), (0.36, -0.3)), BROWN)
    canvas.next_part()
    canvas.polygon(box.path((-1, -0.05), (0, -0.95), (1, -0.05)), darker(paint, 0.68))
    canvas.next_part()
    canvas.polygon(box.path((-0.5, 0.35), (-0.1, 0.35), (-0.1, 1), (-0.5, 1)), BROWN)
    canvas.next_part()
    canvas.polygon(box.path((0.14, 0.25), (0.54, 0.25), (0.54, 0.65), (0.14, 0.65)), CREAM)
    canvas.line(box.path((0.34, 0.25), (0.34, 0.65)), BROWN, box.half / 20)
    canvas.line(box.path((0.14, 0.45), (0.54, 0.45)), BROWN, box.half / 20)


def _tree(canvas: Canvas, box: Box, paint: Rgb) -> None:
    canvas.polygon(box.path((-0.16, 0.1), (0.16, 0.1), (0.22, 1), (-0.22, 1)), BROWN)
    canvas.next_part()
    for x, y, radius in ((-0.42, -0.05, 0.46), (0.42, -0.05, 0.46), (0, -0.46, 0.54)):
        canvas.ellipse(box.at(x, y), box.size(radius, radius), paint)
    canvas.next_part()
    canvas.ellipse(box.at(-0.18, -0.52), box.size(0.22, 0.2), lighter(paint, 0.3))


def _car(canvas: Canvas, box: Box, paint: Rgb) -> None:
    canvas.polygon(box.path((-0.55, 0.1), (-0.35, -0.5), (0.3, -0.5), (0.6, 0.1)), darker(paint))
    canvas.next_part()
    canvas.polygon(box.path((-0.38, 0.1), (-0.25, -0.34), (0, -0.34), (0, 0.1)), GLASS)
    canvas.polygon(box.path((0.1, 0.1), (0.1, -0.34), (0.24, -0.34), (0.44, 0.1)), GLASS)
    canvas.next_part()
    canvas.polygon(box.path((-1, 0.1), (0.7, 0.05), (1, 0.25), (1, 0.68), (-1, 0.68)), paint)
    canvas.next_part()
    for x in (-0.55, 0.55):
        canvas.ellipse(box.at(x, 0.68), box.size(0.3, 0.3), TYRE)
    canvas.next_part()
    for x in (-0.55, 0.55):
        canvas.ellipse(box.at(x, 0.68), box.size(0.12, 0.12), GLASS)


def _boat(canvas: Canvas, box: Box, paint: Rgb) -> None:
    canvas.polygon(box.path((-0.06, -1), (0.06, -1), (0.06, 0.5), (-0.06, 0.5)), BROWN)
    canvas.next_part()
    canvas.polygon(box.path((0.12, -0.95), (0.12, 0.28), (0.85, 0.28)), lighter(paint, 0.55))
    canvas.next_part()
    canvas.polygon(box.path((-0.12, -0.7), (-0.12, 0.28), (-0.7, 0.28)), WHITE)
    canvas.next_part()
    canvas.polygon(box.path((-1, 0.4), (1, 0.4), (0.66, 1), (-0.66, 1)), paint)


def _flower(canvas: Canvas, box: Box, paint: Rgb) -> None:
    canvas.polygon(box.path((-0.08, 0), (0.08, 0), (0.08, 1), (-0.08, 1)), LEAF)
    canvas.polygon(box.path((0.04, 0.95), (0.2, 0.5), (0.66, 0.42), (0.46, 0.82)), LEAF)
    canvas.next_part()
    for petal in range(5):
        angle = math.tau * petal / 5 - math.pi / 2
        x, y = 0.42 * math.cos(angle), -0.32 + 0.42 * math.sin(angle)
        canvas.ellipse(box.at(x, y), box.size(0.31, 0.31), paint)
    canvas.next_part()
    canvas.ellipse(box.at(0, -0.32), box.size(0.24, 0.24), CREAM)


def _mushroom(canvas: Canvas, box: Box, paint: Rgb) -> None:
    canvas.polygon(box.path((-0.26, 0.1), (0.26, 0.1), (0.36, 1), (-0.36, 1)), CREAM)
    canvas.next_part()
    canvas.half_ellipse(box.at(0, 0.22), box.size(0.98, 1.1), paint)
    canvas.next_part()
    for x, y, radius in ((-0.5, -0.1, 0.17), (0.02, -0.5, 0.2), (0.5, -0.06, 0.16)):
        canvas.ellipse(box.at(x, y), box.size(radius, radius), WHITE)


def _cat(canvas: Canvas, box: Box, paint: Rgb) -> None:
    canvas.line(box.path((0.5, 0.85), (0.85, 0.6), (0.9, 0.1), (0.75, -0.15)), paint, box.half / 6)
    canvas.ellipse(box.at(0.05, 0.5), box.size(0.58, 0.52), paint)
    canvas.next_part()
    canvas.polygon(box.path((-0.78, -0.95), (-0.7, -0.2), (-0.3, -0.5)), darker(paint, 0.75))
    canvas.polygon(box.path((0.36, -0.95), (0.28, -0.2), (-0.12, -0.5)), darker(paint, 0.75))
    canvas.ellipse(box.at(-0.21, -0.2), box.size(0.55, 0.47), paint)
    canvas.next_part()
    for x in (-0.42, 0):
        canvas.ellipse(box.at(x, -0.24), box.size(0.12, 0.14), WHITE)
        canvas.ellipse(box.at(x + 0.02, -0.23), box.size(0.055, 0.1), TYRE)
    canvas.next_part()
    canvas.ellipse(box.at(0, 0.62), box.size(0.25, 0.3), lighter(paint))


def _umbrella(canvas: Canvas, box: Box, paint: Rgb) -> None:
    handle = box.path((0, 0), (0, 0.85), (0.12, 0.98), (0.3, 0.94), (0.34, 0.75))
    canvas.line(handle, BROWN, box.half / 7)
    canvas.next_part()
    canvas.half_ellipse(box.at(0, 0.05), box.size(1, 0.95), paint)
    canvas.next_part()
    canvas.half_ellipse(box.at(0, 0.05), box.size(0.42, 0.95), lighter(paint, 0.3))
    canvas.next_part()
    canvas.line(box.path((0, -0.88), (0, -1)), BROWN, box.half / 7)


_PAINTERS: dict[str, Callable[[Canvas, Box, Rgb], None]] = {
    "house": _house, "tree": _tree, "car": _car, "boat": _boat, "flower": _flower,
    "mushroom": _mushroom, "cat": _cat, "umbrella": _umbrella,
}  # fmt: skip


def draw_thing(canvas: Canvas, thing: Thing, box: Box, first_part: int) -> None:
    """Draw one object into its box; its parts are numbered from `first_part` on."""
    canvas.start_part(first_part)
    _PAINTERS[thing.name](canvas, box, COLOURS[thing.colour])
