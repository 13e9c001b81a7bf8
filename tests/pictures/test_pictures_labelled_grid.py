"""A labelled grid: every picture whole and where it belongs, labels that fit."""

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.pictures.sheets import (
    GRID_BACKGROUND,
    LARGEST_SIDE,
    GridRow,
    fitted,
    labelled_grid,
)

COLOURS = ["red", "lime", "blue"]


def plain(colour: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def count(grid: Image.Image, colour: str) -> int:
    target = np.array(plain(colour, (1, 1)))[0, 0]
    return int((np.array(grid) == target).all(axis=-1).sum())


def test_every_picture_is_there_whole() -> None:
    """64 px are shown four times enlarged: 256 * 256 pixels of each colour, twice."""
    row = GridRow("a house", [plain(colour) for colour in COLOURS])
    grid = labelled_grid("Title", ["base", "lora", "nsync"], [row, row])
    assert [count(grid, colour) for colour in COLOURS] == [2 * 256 * 256] * 3


def test_columns_keep_their_order() -> None:
    grid = labelled_grid("", COLOURS, [GridRow("", [plain(colour) for colour in COLOURS])])
    array = np.array(grid)
    columns = [np.nonzero((array == np.array(plain(c, (1, 1)))[0, 0]).all(-1))[1] for c in COLOURS]
    assert columns[0].max() < columns[1].min() < columns[1].max() < columns[2].min()


def test_pictures_of_any_shape_fit() -> None:
    pictures = [plain("red", (512, 256)), plain("lime", (100, 50)), plain("blue", (400, 800))]
    grid = labelled_grid("", COLOURS, [GridRow("", pictures)])
    half = LARGEST_SIDE // 2
    assert count(grid, "red") == LARGEST_SIDE * half
    assert count(grid, "lime") == 200 * 100
    assert count(grid, "blue") == half * LARGEST_SIDE


def test_a_long_label_is_broken_and_nothing_is_cut_off() -> None:
    words = "a very long prompt with many words in it " * 8
    short = labelled_grid("", ["base"], [GridRow("short", [plain("red")])])
    long = labelled_grid("", ["base"], [GridRow(words, [plain("red")])])
    assert long.width == short.width
    assert long.height > short.height + 100
    assert count(long, "red") == 256 * 256
    edges = np.concatenate([np.array(long)[:, :12], np.array(long)[:, -12:]], axis=1)
    assert (edges == GRID_BACKGROUND).all()


def test_small_pictures_keep_their_pixels() -> None:
    checks = Image.fromarray((np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)).convert(
        "RGB"
    )
    shown = fitted(checks)
    assert shown.size == (256, 256)
    assert set(np.unique(np.array(shown))) == {0, 255}


def test_rows_must_fit_the_headings() -> None:
    with pytest.raises(ValueError, match="as many pictures as there are headings"):
        labelled_grid("", ["a", "b"], [GridRow("", [plain("red")])])
    with pytest.raises(ValueError, match="needs rows"):
        labelled_grid("", ["a"], [])
