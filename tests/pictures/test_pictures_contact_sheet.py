"""Contact sheets and previews."""

import io

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.pictures.sheets import (
    PREVIEW_BYTES,
    as_jpeg,
    contact_sheet,
    evenly_spaced,
    preview,
)


def test_pictures_lie_in_reading_order() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = contact_sheet([Image.new("RGB", (5, 5), c) for c in colours], columns=2, side=10)
    # Cells of 10 with gaps of 4: starts at 4 and 18; two rows, two columns: 4 + 2 * 14 = 32.
    assert sheet.size == (32, 32)
    assert [sheet.getpixel(at) for at in ((9, 9), (23, 9), (9, 23))] == colours


def test_a_wide_picture_is_shown_whole() -> None:
    wide = Image.new("RGB", (20, 10), (255, 0, 0))
    wide.paste((0, 0, 255), (10, 0, 20, 10))
    sheet = contact_sheet([wide], columns=3, side=20)
    # One column of 20 + 2 * 4; the picture is 10 high, from row 4 + 5 on.
    assert sheet.size == (28, 28)
    assert sheet.getpixel((6, 14)) == (255, 0, 0)
    assert sheet.getpixel((22, 14)) == (0, 0, 255)
    assert sheet.getpixel((14, 6)) == sheet.getpixel((0, 0))


def test_no_pictures_no_sheet() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([], columns=4, side=16)


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(3, 5, [0, 1, 2]), (10, 5, [0, 2, 4, 6, 8]), (7, 3, [0, 2, 4])],
)
def test_evenly_spaced(count: int, most: int, expected: list[int]) -> None:
    assert evenly_spaced(count, most) == expected


def test_a_preview_of_noise_still_fits_in_its_bytes() -> None:
    generator = np.random.default_rng(0)
    noise = [
        Image.fromarray(generator.integers(0, 256, (96, 96, 3), dtype=np.uint8)) for _ in range(48)
    ]
    jpeg = preview("Forty-eight pictures of noise", noise)
    assert len(jpeg) < PREVIEW_BYTES
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.format == "JPEG"
        assert image.width > 48 * 4


def test_previews_do_not_differ_between_calls() -> None:
    images = [Image.new("RGB", (30, 20), (200, 10, 10))] * 3
    assert preview("Train", images) == preview("Train", images)


@pytest.mark.parametrize("quality", [75, 94, 100])
@pytest.mark.parametrize("side", [64, 700])
def test_what_is_rougher_than_noise_is_a_jpeg_too(quality: int, side: int) -> None:
    """Of black and white dots a pixel takes more than a byte."""
    dots = np.random.default_rng(0).integers(0, 2, (side, side, 3), dtype=np.uint8) * 255
    jpeg = as_jpeg(Image.fromarray(dots), quality)
    assert quality == 75 or len(jpeg) > side**2
    with Image.open(io.BytesIO(jpeg)) as image:
        image.load()
        assert image.size == (side, side)
