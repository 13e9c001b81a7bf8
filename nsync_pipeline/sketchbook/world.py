"""The drawn world: picture i of a set depends on its seed, stream, style and i alone."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nsync_pipeline.sketchbook.composition import draw_scene
from nsync_pipeline.sketchbook.scene import Scene, ScenePredicate, random_scene
from nsync_pipeline.sketchbook.styles import HELD_OUT_PAINTERS, PAINTERS, SEEN_PAINTERS

SEEN_STYLES: tuple[str, ...] = tuple(SEEN_PAINTERS)
HELD_OUT_STYLES: tuple[str, ...] = tuple(HELD_OUT_PAINTERS)


@dataclass(frozen=True)
class DrawnPicture:
    """A picture of the world with its content-only caption."""

    index: int
    image: Image.Image  # 128 x 128 RGB
    caption: str
    scene: Scene


def draw_style_set(
    style: str, count: int, seed: int, scenes: ScenePredicate | None = None
) -> Iterator[DrawnPicture]:
    """Pictures 0 to `count` - 1 in one style, optionally of certain scenes only.

    Two styles of one seed show the same scenes. Picture i is the same whatever the count.

    Raises:
        ValueError: the style is unknown, or no scene satisfies `scenes`.
    """
    for index in range(count):
        yield draw_picture(style, seed, "style set", index, scenes)


def draw_picture(
    style: str, seed: int, stream: str, index: int, scenes: ScenePredicate | None = None
) -> DrawnPicture:
    """One picture; `stream` names what it is for, so that no two purposes share pictures."""
    return draw_given_scene(picture_scene(seed, stream, index, scenes), style, seed, stream, index)


def draw_given_scene(scene: Scene, style: str, seed: int, stream: str, index: int) -> DrawnPicture:
    """One picture of a certain scene; raises ValueError where the style is unknown."""
    if style not in PAINTERS:
        raise ValueError(f"unknown style {style!r}; the sketchbook draws {', '.join(PAINTERS)}")
    drawing = draw_scene(scene, _generator(seed, stream, "composition", index))
    image = PAINTERS[style](drawing, _generator(seed, stream, style, index))
    return DrawnPicture(index=index, image=image, caption=scene.caption, scene=scene)


def picture_scene(
    seed: int, stream: str, index: int, scenes: ScenePredicate | None = None
) -> Scene:
    """What `draw_picture` of the same arguments shows, without drawing it."""
    return random_scene(_generator(seed, stream, "scene", index), scenes)


def content_scenes(count: int, seed: int) -> list[Scene]:
    """`count` different scenes that no set was drawn from; the first n are always the same."""
    found: dict[Scene, None] = {}
    index = 0
    while len(found) < count:
        found.setdefault(picture_scene(seed, "prompts", index))
        index += 1
    return list(found)


def _generator(seed: int, stream: str, purpose: str, index: int) -> np.random.Generator:
    key = zlib.crc32(f"{stream}/{purpose}".encode())
    return np.random.default_rng([seed, key, index])
