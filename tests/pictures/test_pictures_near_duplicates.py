"""Pictures that look the same, and those that only nearly do."""

import io

import numpy as np
import pytest
from picture_files import textured
from PIL import Image, ImageEnhance

from nsync_pipeline.pictures.near_duplicates import (
    LookIndex,
    block_difference,
    correlation,
    look_of,
)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def same(a: Image.Image, b: Image.Image) -> bool:
    index = LookIndex()
    index.add(look_of(a))
    return index.same(look_of(b)) == [0]


PICTURE = textured(1, 400, 300)
COPIES = {
    "compressed again": jpeg(PICTURE, 30),
    "half the size": PICTURE.resize((200, 150), Image.Resampling.LANCZOS),
    "brighter": ImageEnhance.Brightness(PICTURE).enhance(1.25),
    "mirrored": PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "one pixel changed": PICTURE.copy(),
}
COPIES["one pixel changed"].putpixel((7, 7), (0, 0, 0))


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found(kind: str) -> None:
    assert same(PICTURE, COPIES[kind])


def test_different_pictures_are_different() -> None:
    index = LookIndex()
    for seed in range(2, 40):
        index.add(look_of(textured(seed, 400, 300)))
    assert index.same(look_of(PICTURE)) == []


def test_the_same_light_and_dark_with_other_things_in_it_is_different() -> None:
    """Bright sky over dark land, with a small thing elsewhere: only the blocks tell them."""

    def land(at: int) -> Image.Image:
        image = Image.new("RGB", (256, 256), (200, 215, 235))
        image.paste((60, 50, 30), (0, 128, 256, 256))
        image.paste((180, 20, 20), (at, 110, at + 15, 130))
        return image

    assert not same(land(30), land(170))
    assert same(land(30), land(30))


def test_the_same_shapes_in_other_colours_are_different() -> None:
    red, green, blue = PICTURE.split()
    assert not same(PICTURE, Image.merge("RGB", (blue, red, green)))


def test_another_shape_of_frame_is_different() -> None:
    assert not same(PICTURE, PICTURE.resize((400, 270)))


def test_flat_pictures_are_the_same_only_in_the_same_colour() -> None:
    grey = Image.new("RGB", (64, 64), (90, 90, 90))
    assert same(grey, Image.new("RGB", (64, 64), (91, 90, 90)))
    assert not same(grey, Image.new("RGB", (64, 64), (140, 90, 90)))


def test_the_index_goes_on_past_its_first_size_and_names_all_that_are_the_same() -> None:
    index = LookIndex()
    for seed in range(70):
        index.add(look_of(textured(seed)))
    index.add(look_of(textured(5)))
    assert len(index) == 71
    assert index.same(look_of(textured(5))) == [5, 70]
    assert index.same(look_of(textured(69))) == [69]


def test_correlation() -> None:
    """a = (0, 1, 2), b = (0, 2, 1): means 1, deviations (-1, 0, 1) and (-1, 1, 0): 1 / 2."""
    a, b = np.float32([0, 1, 2]), np.float32([0, 2, 1])
    assert correlation(a, b) == pytest.approx(0.5)
    assert correlation(a, -a) == pytest.approx(-1.0)
    assert correlation(a, np.float32([1, 1, 1])) == 0.0


def test_block_difference() -> None:
    """Eight blocks of 4 pixels a side; one block of one channel is raised by 0.5.

    b is flat, so k y = 0 and what is left is a less its mean: 0.5 (1 - 1/64) in the raised block,
    -0.5 / 64 in all others of that channel.
    """
    a, b = np.zeros((32, 32, 3), np.float32), np.zeros((32, 32, 3), np.float32)
    a[4:8, 8:12, 1] = 0.5
    assert block_difference(a, b) == pytest.approx(0.5 * 63 / 64)


def test_block_difference_does_not_see_brightness_and_contrast() -> None:
    a = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
    assert block_difference(a, np.float32(0.7) * a + np.float32(0.1)) < 1e-6
