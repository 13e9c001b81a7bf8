"""Pictures that look the same, and those that only nearly do."""

import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from nsync_pipeline.pictures.near_duplicates import (
    MOST_ASPECT_RATIO,
    MOST_HASH_DISTANCE,
    Hash,
    Look,
    LookIndex,
    _Hashes,
    block_difference,
    correlation,
    look_of,
    same_picture,
)
from tests.support.picture_files import textured


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


def by_one_look_at_each(looks: list[Look], look: Look) -> list[int]:
    """As written: bits of the hash that differ, then aspect, then pixels."""

    def distance(a: Hash, b: Hash) -> int:
        return int(np.unpackbits((a ^ b).view(np.uint8)).sum())

    def is_same(other: Look) -> bool:
        nearest = min(
            distance(other.difference_hash, own)
            for own in (look.difference_hash, look.mirrored_hash)
        )
        aspects = (look.aspect, other.aspect)
        return (
            nearest <= MOST_HASH_DISTANCE
            and max(aspects) <= MOST_ASPECT_RATIO * min(aspects)
            and same_picture(look.pixels, other.pixels)
        )

    return [index for index, other in enumerate(looks) if is_same(other)]


Change = tuple[int, int, int, bool, int]
"""The picture's seed, width and height, whether it is mirrored, and JPEG quality."""


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4), st.integers(60, 130), st.just(100), st.booleans(),
            st.sampled_from([20, 90]),
        ),
        min_size=2, max_size=16,
    )
)  # fmt: skip
def test_the_index_finds_what_looking_at_each_finds(changes: list[Change]) -> None:
    """Few different pictures, stretched to aspects around the limit, mirrored, compressed."""
    looks: list[Look] = []
    index = LookIndex()
    for seed, width, height, mirrored, quality in changes:
        picture = textured(seed).resize((width, height))
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        look = look_of(jpeg(picture, quality))
        assert index.same(look) == by_one_look_at_each(looks, look)
        index.add(look)
        looks.append(look)


def test_hashes_are_near_up_to_72_bits() -> None:
    """Of a picture whose hash is changed bit by bit, and of its mirror image."""
    look = look_of(textured(1))
    for bits, found in ((72, [0]), (73, [])):
        flipped = np.zeros(256, dtype=np.uint8)
        flipped[:bits] = 1
        mask = np.packbits(flipped).view(np.uint64)
        index = LookIndex()
        index.add(look)
        for name in ("difference_hash", "mirrored_hash"):
            far = dict.fromkeys(("difference_hash", "mirrored_hash"), ~look.difference_hash)
            asked = replace(look, **(far | {name: look.difference_hash ^ mask}))
            assert index.same(asked) == found


def test_a_picture_takes_few_bytes_of_memory() -> None:
    """Its 64 bits a row of hashes, its index and its aspect; 3 KB are on the disk."""
    look = look_of(textured(1))
    tracemalloc.start()
    try:
        index = LookIndex()
        before, _ = tracemalloc.get_traced_memory()
        for seed in range(2048):
            index.add(replace(look, aspect=1.0 + seed / 1e6))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 2048 < 250


def test_correlation() -> None:
    """a = (0, 1, 2), b = (0, 2, 1): means 1, deviations (-1, 0, 1) and (-1, 1, 0): 1 / 2."""
    a, b = np.array([0, 1, 2], np.float32), np.array([0, 2, 1], np.float32)
    assert correlation(a, b) == pytest.approx(0.5)
    assert correlation(a, -a) == pytest.approx(-1.0)
    assert correlation(a, np.ones(3, np.float32)) == 0.0


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


@given(bits=st.lists(st.integers(0, 256), max_size=40), seed=st.integers(0, 2**32 - 1))
def test_all_hashes_within_the_limit_are_proposed_and_no_others(bits: list[int], seed: int) -> None:
    """By turns a hash differs in so many bits from the one looked for, or from its mirror image."""
    rng = np.random.default_rng(seed)
    sides = rng.integers(0, 2, (2, 256), dtype=np.uint8)
    index, expected = _Hashes(), []
    for number, count in enumerate(bits):
        other = sides[number % 2].copy()
        other[rng.permutation(256)[:count]] ^= 1
        index.add(number, np.packbits(other).view(np.uint64))
        if (other ^ sides).sum(axis=1).min() <= MOST_HASH_DISTANCE:
            expected.append(number)
    own, mirrored = np.packbits(sides, axis=1).view(np.uint64)

    assert index.near(Look(1.0, own, mirrored, np.zeros((32, 32, 3), np.uint8))) == expected
