"""The drawn world: deterministic, truthful captions, styles that differ."""

import hashlib
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest

from nsync_pipeline.sketchbook import (
    HELD_OUT_STYLES,
    SEEN_STYLES,
    draw_style_set,
)
from nsync_pipeline.sketchbook.scene import Scene, Thing
from nsync_pipeline.sketchbook.world import content_scenes


def _pixels(style: str, count: int, seed: int) -> list[bytes]:
    return [picture.image.tobytes() for picture in draw_style_set(style, count, seed)]


@pytest.mark.parametrize("style", SEEN_STYLES + HELD_OUT_STYLES)
def test_picture_depends_on_seed_and_index_not_on_count(style: str) -> None:
    few, many = _pixels(style, 2, 7), _pixels(style, 4, 7)
    assert many[:2] == few
    assert _pixels(style, 2, 8)[0] != few[0]
    assert len(set(many)) == 4


def test_styles_of_one_seed_show_the_same_scenes() -> None:
    captions = {
        style: [picture.caption for picture in draw_style_set(style, 3, 1)]
        for style in ("ink", "mosaic")
    }
    assert captions["ink"] == captions["mosaic"]


def test_pictures_are_small_rgb_and_indexed() -> None:
    for expected, picture in enumerate(draw_style_set("woodblock", 3, 0)):
        assert picture.index == expected
        assert picture.image.mode == "RGB"
        assert picture.image.size == (128, 128)


def test_caption_says_what_the_scene_holds_and_no_style() -> None:
    for picture in draw_style_set("illustration", 40, 2):
        for thing in picture.scene.things:
            assert f" {thing.colour} {thing.name} " in f" {picture.caption} "
        assert f"on {picture.scene.place} under" in picture.caption
        assert "style" not in picture.caption


def test_caption_of_a_pair_reads_as_a_sentence() -> None:
    scene = Scene((Thing("house", "red"), Thing("tree", "orange")), "beside", "grass", "sun")
    assert scene.caption == "a red house beside an orange tree on grass under a sun"


def test_named_colour_is_in_the_picture() -> None:
    def one_red_house(scene: Scene) -> bool:
        return scene.things == (Thing("house", "red"),)

    for picture in draw_style_set("illustration", 3, 0, scenes=one_red_house):
        pixels = np.asarray(picture.image).astype(int)
        red = (pixels[..., 0] > 180) & (pixels[..., 1] < 80) & (pixels[..., 2] < 80)
        assert red.sum() > 400  # walls of 1.4 x 1.1 half sides of 32 px or more: over 1,570 px


def test_predicate_keeps_only_wished_scenes() -> None:
    pictures = list(draw_style_set("ink", 5, 3, scenes=lambda scene: scene.sky == "moon"))
    assert [picture.scene.sky for picture in pictures] == ["moon"] * 5


def test_impossible_predicate_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsync_pipeline.sketchbook.scene.MAX_SCENE_DRAWS", 50)
    with pytest.raises(ValueError, match="predicate"):
        next(draw_style_set("ink", 1, 0, scenes=lambda scene: False))


def test_unknown_style_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="woodblock"):
        next(draw_style_set("cubist", 1, 0))


def test_content_scenes_are_different_and_a_prefix_of_more() -> None:
    scenes = content_scenes(60, 4)
    assert len({scene.caption for scene in scenes}) == 60
    assert content_scenes(20, 4) == scenes[:20]


def test_drawing_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib\n"
        "from nsync_pipeline.sketchbook import draw_style_set\n"
        "print(hashlib.sha256(b''.join(p.image.tobytes() "
        "for s in ('oil', 'pointillist') for p in draw_style_set(s, 2, 9))).hexdigest())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    here = hashlib.sha256(
        b"".join(
            picture.image.tobytes()
            for style in ("oil", "pointillist")
            for picture in islice(draw_style_set(style, 2, 9), 2)
        )
    ).hexdigest()
    assert printed == here


def test_package_imports_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import nsync_pipeline.sketchbook as s; print(len(s.HELD_OUT_STYLES))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert printed == "4"
