"""Opening pictures of unknown origin: each bad one is refused with its own reason."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.errors import PictureError
from nsync_pipeline.pictures.decoding import decode_picture
from tests.support.picture_files import save, textured


def refusal(path: Path, min_side: int = 16, max_megapixels: float = 1.0) -> str:
    with pytest.raises(PictureError) as caught:
        decode_picture(path, min_side, max_megapixels)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tif", "gif", "avif"])
def test_every_known_format_is_read(tmp_path: Path, ending: str) -> None:
    image = decode_picture(save(tmp_path / f"a.{ending}", 1), 16, 1.0)
    assert (image.mode, image.size) == ("RGB", (96, 80))
    difference = np.asarray(image, float) - np.asarray(textured(1), float)
    assert np.abs(difference).mean() < 20


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    assert refusal(path) == "is empty (0 bytes)"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a boat on a lake\n", "text file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"\x00\x00\x00\x1cftypheic" + bytes(40), "HEIC"),
        (bytes(range(200, 256)) * 4, "not a picture of a known format"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert said in refusal(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_truncated_picture_is_refused(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", 1, 400, 300)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert refusal(path).startswith(("is damaged or cut off", "is not a picture"))


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """A PNG that says it has 30,000 x 30,000 pixels, of which none are there to decode."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"nothing"))
    said = refusal(path, max_megapixels=100.0)
    assert said == ("has 30000 x 30000 = 900.0 megapixels; style_set.max_megapixels allows 100")


def test_pillows_own_limit_is_as_it_was(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode_picture(save(tmp_path / "a.png", 1), 16, 1.0)
    refusal(tmp_path / "a.png", min_side=90)
    assert before == Image.MAX_IMAGE_PIXELS


def test_too_small_and_just_large_enough(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 1, 96, 80)
    assert refusal(path, min_side=81) == (
        "has 96 x 80 pixels; style_set.min_side asks for at least 81"
    )
    assert decode_picture(path, 80, 96 * 80 / 1e6).size == (96, 80)


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_several_pictures_in_one_file_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    textured(1).save(path, save_all=True, append_images=[textured(2), textured(3)])
    assert "3 pages" in refusal(path) if ending == "tif" else "3 frames" in refusal(path)


def test_a_camera_jpeg_with_a_preview_behind_it_is_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    textured(1).save(path, format="MPO", save_all=True, append_images=[textured(2, 32, 24)])
    assert decode_picture(path, 64, 1.0).size == (96, 80)


def test_a_postscript_file_is_not_handed_to_another_program(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    textured(1).save(path, format="EPS")
    assert "text file" in refusal(path) or "not a picture" in refusal(path)
