"""Stored pictures as tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.pictures.pixels import centre_square, load_pixels


def test_black_and_white_map_to_minus_one_and_one(tmp_path: Path) -> None:
    array = np.zeros((2, 2, 3), np.uint8)
    array[0, 1] = 255
    Image.fromarray(array).save(tmp_path / "a.png")
    pixels = load_pixels(tmp_path / "a.png", (2, 2))
    assert pixels.dtype == torch.float32
    assert pixels.tolist() == [[[-1.0, 1.0], [-1.0, -1.0]]] * 3


def test_the_centre_square_is_what_is_seen(tmp_path: Path) -> None:
    # 6 wide, 2 high: the square is columns 2 and 3.
    array = np.zeros((2, 6, 3), np.uint8)
    array[:, 2] = (51, 102, 153)
    array[:, 3] = (204, 0, 255)
    array[:, [0, 1, 4, 5]] = 77
    Image.fromarray(array).save(tmp_path / "wide.png")
    square = load_pixels(tmp_path / "wide.png", (2, 2))
    # 51 / 127.5 - 1 = -0.6, 102: -0.2, 153: 0.2, 204: 0.6, 0: -1, 255: 1
    expected = [[-0.6, 0.6], [-0.2, -1.0], [0.2, 1.0]]
    torch.testing.assert_close(square[:, 0], torch.tensor(expected))
    torch.testing.assert_close(square[:, 1], torch.tensor(expected))


def test_any_size_comes_out_square_at_the_resolution() -> None:
    tall = Image.new("RGB", (31, 97), (10, 20, 30))
    square = centre_square(tall, 16)
    assert square.size == (16, 16)
    assert square.getextrema() == ((10, 10), (20, 20), (30, 30))


def test_a_missing_or_damaged_picture_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match=r"gone\.png"):
        load_pixels(tmp_path / "gone.png", (8, 8))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = tmp_path / "whole.png"
    Image.fromarray(noise).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(MissingArtifactError, match=r"cut\.png"):
        load_pixels(cut, (8, 8))
