"""The film-strip of a training."""

import io

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.pictures.sheets import PREVIEW_BYTES, sharp_jpeg, small_jpeg
from nsync_pipeline.training.looks import (
    MISSING,
    film_strip,
    shown_columns,
)

RED, BLUE = (200, 10, 10), (10, 10, 200)


def plain(colour: tuple[int, int, int], side: int = 32) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def noise(side: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_rows_are_captions_and_columns_are_looks() -> None:
    """Cells of 64 pixels (32 doubled) with gaps of 4, below a heading of 25."""
    strip = film_strip([[plain(RED), plain(BLUE)], [plain(BLUE), None]], ["real", "step 0"])
    assert strip.size == (2 * 68 + 4, 2 * 68 + 4 + 25)
    centres = [(4 + 32 + 68 * column, 25 + 32 + 68 * row) for row in (0, 1) for column in (0, 1)]
    assert [strip.getpixel(centre) for centre in centres] == [RED, BLUE, BLUE, MISSING]


def test_small_pictures_keep_their_pixels_when_doubled() -> None:
    picture = noise(32, seed=0)
    strip = film_strip([[picture]], ["real"])
    shown = strip.crop((4, 25, 68, 89)).resize((32, 32), Image.Resampling.NEAREST)
    assert shown.tobytes() == picture.tobytes()


def test_large_pictures_are_made_smaller() -> None:
    strip = film_strip([[plain(RED, 512)]], ["real"])
    assert strip.size == (128 + 8, 128 + 8 + 25)


def test_a_row_without_all_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="a heading for each column"):
        film_strip([[plain(RED)]], ["real", "step 0"])


def test_of_many_looks_the_first_and_the_last_are_shown() -> None:
    """Of 100, twelve: every ninth."""
    assert shown_columns(3) == [0, 1, 2]
    assert shown_columns(100) == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]


def test_the_same_pictures_give_the_same_bytes_and_a_small_preview() -> None:
    rows = [[noise(128, 10 * row + column) for column in range(12)] for row in range(8)]
    strip, again = (film_strip(rows, [str(i) for i in range(12)]) for _ in range(2))
    assert sharp_jpeg(strip, 92) == sharp_jpeg(again, 92)
    preview = small_jpeg(strip)
    assert len(preview) < PREVIEW_BYTES
    with Image.open(io.BytesIO(preview)) as image:
        assert image.format == "JPEG"
