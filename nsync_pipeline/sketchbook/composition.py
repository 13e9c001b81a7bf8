"""A scene placed on the canvas: where the horizon lies and where its things stand."""

from __future__ import annotations

import numpy as np

from nsync_pipeline.sketchbook.backdrop import draw_ground, draw_sky
from nsync_pipeline.sketchbook.canvas import FIRST_THING_PART, PARTS_A_THING, Canvas, Drawing
from nsync_pipeline.sketchbook.objects import Box, draw_thing
from nsync_pipeline.sketchbook.scene import Scene


def draw_scene(scene: Scene, rng: np.random.Generator) -> Drawing:
    """The scene in flat colours; `rng` decides places, sizes and small marks."""
    canvas = Canvas()
    horizon = float(rng.uniform(36, 42))
    draw_sky(canvas, scene.sky, horizon, rng)
    draw_ground(canvas, scene.place, scene.sky == "moon", horizon, rng)
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
