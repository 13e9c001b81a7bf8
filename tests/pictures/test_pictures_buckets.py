"""Aspect-ratio buckets."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nsync_pipeline.pictures.pixels import (
    PictureSizes,
    bucket_of,
    centre_cut,
    cut_of,
    geometry_of,
    picture_sizes,
)

SIDES = st.integers(min_value=1, max_value=8000)


def test_pictures_go_to_the_nearest_aspect() -> None:
    """512 and 64: 384 x 640 (5:3) is the longest of 384, 448 x 576 (9:7) of 448, 320 x 768 not.

    320 x 768 is 2.4 : 1, longer than 2 : 1; at 384 the other side may be 262144 / 384 = 682 -> 640.
    """
    assert bucket_of(1600, 1600, 512, 64) == (512, 512)
    assert bucket_of(1600, 1500, 512, 64) == (512, 512)
    assert bucket_of(900, 700, 512, 64) == (448, 576)
    assert bucket_of(700, 900, 512, 64) == (576, 448)
    assert bucket_of(1920, 1080, 512, 64) == (384, 640)
    assert bucket_of(5000, 100, 512, 64) == (384, 640)


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, st.sampled_from([(512, 64), (1024, 64), (64, 8), (768, 32), (100, 64)]))
def test_a_bucket_has_at_most_the_squares_pixels_and_fitting_sides(
    width: int, height: int, model: tuple[int, int]
) -> None:
    resolution, multiple = model
    bucket = bucket_of(width, height, resolution, multiple)
    assert bucket[0] * bucket[1] <= resolution**2
    assert bucket == (resolution, resolution) or all(side % multiple == 0 for side in bucket)
    assert max(bucket) <= 2 * min(bucket)
    assert bucket_of(height, width, resolution, multiple) == bucket[::-1]


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES)
def test_no_picture_is_cut_more_than_into_a_square(width: int, height: int) -> None:
    def kept(size: tuple[int, int]) -> float:
        return min(width / height * size[0] / size[1], height / width * size[1] / size[0])

    assert kept(bucket_of(width, height, 512, 64)) >= kept((512, 512)) - 1e-9


def test_without_buckets_every_picture_is_square() -> None:
    sizes = PictureSizes(512, 64, buckets=False)
    assert sizes.of(1920, 1080) == (512, 512)
    assert sizes.asked_for(1920, 1080) is None
    assert PictureSizes(512, 64, buckets=True).asked_for(1920, 1080) == (384, 640)
    assert PictureSizes(512, 64, buckets=True).asked_for(640, 640) is None


@pytest.mark.parametrize(
    ("config", "pixels", "resolution", "multiple"),
    [
        ({"block_out_channels": (1, 1, 1, 1)}, 8, 512, 64),  # Stable Diffusion 1.5
        ({"block_out_channels": (1, 1, 1)}, 8, 1024, 64),  # XL: 32 would do, a sixteenth is 64
        ({"patch_size": 2}, 8, 1024, 64),  # Stable Diffusion 3
        ({"block_out_channels": (1, 1)}, 4, 64, 8),  # two levels, four pixels a latent
    ],
)
def test_sides_suit_the_denoiser(
    config: dict[str, Any], pixels: int, resolution: int, multiple: int
) -> None:
    family: Any = SimpleNamespace(
        denoiser=SimpleNamespace(config=config),
        pixels_per_latent=pixels,
        resolution=resolution,
        patch=config.get("patch_size", 1),
    )
    assert picture_sizes(family, buckets=True).multiple == multiple


def test_a_cut_has_the_targets_aspect() -> None:
    """Of 100 x 50 to 1:1 the middle 50 columns; to 40 high and 20 wide, 25 of them."""
    assert (cut_of(100, 50, (8, 8)).left, cut_of(100, 50, (8, 8)).width) == (25, 50)
    narrow = cut_of(100, 50, (40, 20))
    assert (narrow.left, narrow.top, narrow.width, narrow.height) == (37, 0, 25, 50)


def test_a_cut_picture_has_the_size_asked_for_height_first() -> None:
    assert centre_cut(Image.new("RGB", (300, 200)), (24, 40)).size == (40, 24)


def test_a_picture_of_the_size_is_left_as_it_is() -> None:
    picture = Image.effect_noise((40, 24), 60).convert("RGB")
    assert centre_cut(picture, (24, 40)).tobytes() == picture.tobytes()


def test_geometry_says_where_the_cut_is_in_the_resized_picture() -> None:
    """200 high, 400 wide, to 64 x 64: scaled by 64 / 200 the cut begins at 100 * 0.32 = 32."""
    assert geometry_of(400, 200, (64, 64)) == (200, 400, 0, 32, 64, 64)
    assert geometry_of(64, 64, (64, 64)) == (64, 64, 0, 0, 64, 64)


def test_a_nonsense_size_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        bucket_of(0, 10, 512, 64)
