"""A scene on the canvas: sky and ground, where the horizon lies, where its things stand."""

import math

import numpy as np

from nsync_pipeline.sketchbook.canvas import (
    FIRST_THING_PART,
    PARTS_A_THING,
    SCENE_SIDE,
    Canvas,
    Drawing,
)
from nsync_pipeline.sketchbook.objects import Box, darker, draw_thing, lighter
from nsync_pipeline.sketchbook.scene import Rgb, Scene

SKY_COLOURS: dict[str, Rgb] = {
    "sun": (132, 196, 240),
    "moon": (38, 48, 100),
    "clouds": (158, 180, 200),
    "rainbow": (196, 226, 240),
}
GROUND_COLOURS: dict[str, Rgb] = {
    "grass": (132, 182, 92),
    "sand": (228, 204, 150),
    "water": (78, 146, 196),
    "snow": (238, 242, 248),
}
RAINBOW: tuple[Rgb, ...] = (
    (226, 70, 70), (246, 160, 60), (250, 224, 90), (90, 180, 100), (80, 120, 210),
)  # fmt: skip
BAND_WIDTH = 2.4  # scene units, each band of the rainbow
NIGHT_SHARE = 0.72  # of a ground's brightness that is left under the moon
SKY_PART, GROUND_PART, DETAIL_PART = 0, 1, 4
_SIDE = SCENE_SIDE


def draw_scene(scene: Scene, rng: np.random.Generator) -> Drawing:
    """The scene in flat colours; `rng` decides places, sizes and small marks."""
    canvas = Canvas()
    horizon = float(rng.uniform(36, 42))
    _draw_sky(canvas, scene.sky, horizon, rng)
    _draw_ground(canvas, scene.place, scene.sky == "moon", horizon, rng)
    boxes = _boxes(scene, rng)
    for index in reversed(range(len(boxes))):  # the first named stands in front
        first_part = FIRST_THING_PART + PARTS_A_THING * index
        draw_thing(canvas, scene.things[index], boxes[index], first_part)
    return canvas.finish()


def _boxes(scene: Scene, rng: np.random.Generator) -> list[Box]:
    """One box a thing; the lower side of a box is where the thing touches the ground."""
    mirrored = [bool(rng.random() < 0.5) for _ in scene.things]
    if len(scene.things) == 1:
        half = float(rng.uniform(16, 19.5))
        foot = float(rng.uniform(53, 60))
        return [Box(float(rng.uniform(23, 41)), foot - half, half, mirrored[0])]
    halves = [float(rng.uniform(12.5, 14.5)) for _ in scene.things]
    left = bool(rng.random() < 0.5)
    if scene.relation == "in front of":
        halves = [float(rng.uniform(13, 14.5)), float(rng.uniform(13.5, 15))]
        feet = [float(rng.uniform(57, 61)), float(rng.uniform(43, 46))]
        columns = [float(rng.uniform(19, 23)), float(rng.uniform(40, 44))]
    else:
        feet = [float(rng.uniform(51, 58)) for _ in scene.things]
        columns = [float(rng.uniform(15, 18)), float(rng.uniform(46, 49))]
    if not left:
        columns = [64 - column for column in columns]
    return [
        Box(column, foot - half, half, mirror)
        for column, foot, half, mirror in zip(columns, feet, halves, mirrored, strict=True)
    ]


def _draw_sky(canvas: Canvas, sky: str, horizon: float, rng: np.random.Generator) -> None:
    """Fill the canvas with sky and hang its sun, moon, clouds or rainbow."""
    canvas.start_part(SKY_PART)
    canvas.polygon([(0, 0), (_SIDE, 0), (_SIDE, _SIDE), (0, _SIDE)], SKY_COLOURS[sky])
    canvas.start_part(DETAIL_PART)
    x = float(rng.uniform(9, 16)) if rng.random() < 0.5 else float(rng.uniform(48, 55))
    y = float(rng.uniform(9, 13))
    if sky == "sun":
        turn = float(rng.uniform(0, 1))
        for ray in range(8):
            angle = math.tau * (ray + turn) / 8
            cosine, sine = math.cos(angle), math.sin(angle)
            ends = [(x + 6 * cosine, y + 6 * sine), (x + 9 * cosine, y + 9 * sine)]
            canvas.line(ends, (252, 206, 70), 1.5)
        canvas.ellipse((x, y), (5.5, 5.5), (255, 222, 84))
    elif sky == "moon":
        for _ in range(6):
            star = (float(rng.uniform(2, 62)), float(rng.uniform(2, horizon - 8)))
            canvas.ellipse(star, (0.9, 0.9), (250, 246, 214))
        canvas.next_part()
        canvas.ellipse((x, y), (7, 7), (248, 240, 190))
        canvas.start_part(SKY_PART)
        canvas.ellipse((x + 3.6, y - 2), (5.6, 5.6), SKY_COLOURS[sky])
    elif sky == "clouds":
        for cloud in range(2):
            left = (x if cloud == 0 else _SIDE - x) + float(rng.uniform(-3, 3))
            top = y + float(rng.uniform(-2, 3))
            for dx, dy, radius in ((-5.0, 1.5, 4.0), (0.0, 0.0, 5.5), (5.5, 1.5, 4.2)):
                canvas.ellipse((left + dx, top + dy), (radius * 1.25, radius), (248, 248, 250))
            canvas.next_part()
    else:
        centre, radius = (float(rng.uniform(26, 38)), horizon + 2), float(rng.uniform(33, 36))
        for band, colour in enumerate(RAINBOW):
            outer = radius - BAND_WIDTH * band
            canvas.ellipse(centre, (outer, outer), colour)
        inner = radius - BAND_WIDTH * len(RAINBOW)
        canvas.start_part(SKY_PART)
        canvas.ellipse(centre, (inner, inner), SKY_COLOURS[sky])


def _draw_ground(
    canvas: Canvas, place: str, night: bool, horizon: float, rng: np.random.Generator
) -> None:
    """Cover what lies below the horizon, with a few marks of the place."""
    colour = GROUND_COLOURS[place]
    colour = darker(colour, NIGHT_SHARE) if night else colour
    bend = float(rng.uniform(-2, 2)) if place != "water" else 0.0
    canvas.start_part(GROUND_PART)
    edge = [(x, horizon + bend * math.sin(math.pi * x / _SIDE)) for x in np.linspace(0, 64, 9)]
    canvas.polygon([*edge, (_SIDE, _SIDE), (0, _SIDE)], colour)
    canvas.next_part()
    for _ in range(9):
        x, y = float(rng.uniform(0, 62)), float(rng.uniform(horizon + 2.5, 63))
        if place == "grass":
            canvas.line([(x, y), (x - 1, y - 2.5)], darker(colour, 0.75), 0.5)
            canvas.line([(x, y), (x + 1.5, y - 2)], darker(colour, 0.75), 0.5)
        elif place == "sand":
            canvas.ellipse((x, y), (0.7, 0.5), darker(colour, 0.8))
        elif place == "water":
            wave = [(x - 4, y), (x - 2, y - 0.8), (x, y), (x + 2, y - 0.8), (x + 4, y)]
            canvas.line(wave, lighter(colour, 0.5), 0.7)
        else:
            canvas.ellipse((x, y), (3.5, 0.7), darker(colour, 0.9))
