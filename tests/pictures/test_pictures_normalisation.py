"""Any picture as 8-bit sRGB, upright, on white."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from nsync_pipeline.errors import PictureError
from nsync_pipeline.pictures.decoding import UPRIGHT, decode_picture, normalised
from tests.support.picture_files import textured


def reopened(image: Image.Image, kind: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """The stored pixels are the upright ones turned back, so turning them upright gives those."""
    upright = textured(3, 12, 8)
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)  # the inverse turn
    stored = upright.transpose(UPRIGHT[back]) if back in UPRIGHT else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = normalised(reopened(stored, "PNG", exif=exif))
    assert turned.size == (12, 8)
    assert turned.tobytes() == upright.tobytes()


def test_orientation_6_is_a_quarter_turn_clockwise() -> None:
    """EXIF 6: row 0 of the file is the right side of the picture. Left-to-right red, blue is then
    top-to-bottom red, blue."""
    stored = Image.new("RGB", (2, 1), (255, 0, 0))
    stored.putpixel((1, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = normalised(reopened(stored, "PNG", exif=exif))
    assert upright.size == (1, 2)
    assert [upright.getpixel((0, y)) for y in (0, 1)] == [(255, 0, 0), (0, 0, 255)]


def test_transparency_shows_white() -> None:
    """Alpha 0: white; 255: the colour; 128 of black: 255 (1 - 128/255) = 127."""
    image = Image.new("RGBA", (3, 1))
    image.putpixel((0, 0), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    white = normalised(reopened(image, "PNG"))
    assert [white.getpixel((x, 0)) for x in range(3)] == [
        (255, 255, 255),
        (10, 20, 30),
        (127, 127, 127),
    ]


def test_a_transparent_palette_colour_shows_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 0), 1)
    white = normalised(reopened(image, "PNG", transparency=0))
    assert [white.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 200, 0)]


def test_grey_with_alpha_and_bilevel() -> None:
    grey = Image.new("LA", (1, 1), (90, 255))
    assert normalised(reopened(grey, "PNG")).getpixel((0, 0)) == (90, 90, 90)
    assert normalised(reopened(Image.new("1", (1, 1), 1), "PNG")).getpixel((0, 0)) == (255,) * 3


def test_16_bit_grey_is_scaled_to_8_bits() -> None:
    """65535 / 257 = 255, 32896 / 257 = 128, 300 / 257 rounds to 1: not cut off at 255."""
    grey = Image.fromarray(np.array([[0, 300, 32896, 65535]], dtype=np.uint16))
    rgb = normalised(reopened(grey, "PNG"))
    assert [rgb.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


def test_cmyk_without_a_profile() -> None:
    """(255 - c)(255 - k) / 255: no ink is white, c = 255 no red, k = 255 black."""
    image = Image.new("CMYK", (3, 1))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 255))
    rgb = normalised(reopened(image, "TIFF"))
    assert [rgb.getpixel((x, 0)) for x in range(3)] == [(255, 255, 255), (0, 255, 255), (0, 0, 0)]


def test_a_cmyk_jpeg_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    textured(5).convert("CMYK").save(path, quality=95)
    difference = np.asarray(decode_picture(path, 16, 1.0), float) - np.asarray(textured(5), float)
    assert np.abs(difference).mean() < 6


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = textured(2)
    assert normalised(reopened(image, "PNG", icc_profile=profile)).tobytes() == image.tobytes()


def gamma_profile(gamma: float) -> bytes:
    """The sRGB profile with its three tone curves replaced by ``x ** gamma`` (ICC ``curv``)."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big")
    for n in range(count):
        entry = 132 + 12 * n
        if bytes(profile[entry : entry + 4]) in (b"rTRC", b"gTRC", b"bTRC"):
            offset = int.from_bytes(profile[entry + 4 : entry + 8], "big")
            profile[offset : offset + len(curve)] = curve
            profile[entry + 8 : entry + 12] = len(curve).to_bytes(4, "big")
    return bytes(profile.replace("sRGB".encode("utf-16-be"), "lRGB".encode("utf-16-be")))


def test_a_profile_is_followed() -> None:
    """In a profile with gamma 1, half the light is 128; sRGB writes half the light as 188:
    255 (1.055 * 0.502^(1/2.4) - 0.055) = 188.0."""
    image = Image.new("RGB", (4, 4), (128, 128, 128))
    lightened = normalised(reopened(image, "PNG", icc_profile=gamma_profile(1.0)))
    assert np.abs(np.asarray(lightened).astype(int) - 188).max() <= 1


def test_a_damaged_profile_is_not_followed() -> None:
    image = textured(2)
    assert normalised(reopened(image, "PNG", icc_profile=b"nonsense")).tobytes() == image.tobytes()


def test_floating_point_pixels_are_refused() -> None:
    floats = Image.fromarray(np.zeros((4, 4), np.float32))
    with pytest.raises(PictureError, match="floating point"):
        normalised(reopened(floats, "TIFF"))


def test_no_metadata_comes_along() -> None:
    exif = Image.Exif()
    exif[0x8298] = "somebody"
    image = normalised(reopened(textured(2), "JPEG", exif=exif, comment=b"a comment", dpi=(72, 72)))
    assert image.info == {}
    assert not image.getexif()
