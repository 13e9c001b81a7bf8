"""Opening a picture of unknown origin: refused with a reason, or decoded whole."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from nsync_pipeline.errors import PictureError
from nsync_pipeline.image_sets.normalisation import normalised

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Pillow reads more, some through outside programs (EPS through Ghostscript): not those."""
SEQUENCES = {"TIFF": "pages", "GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames"}
"""Not MPO, which Pillow makes of a camera's JPEG with a preview behind it: the first is meant."""


def decode_picture(path: Path, min_side: int, max_megapixels: float) -> Image.Image:
    """The picture at ``path`` as 8-bit sRGB, turned upright, on white (``normalisation``).

    The size is checked in the header, before any pixel is decoded.

    Args:
        min_side: the least length of the shorter side, in pixels.
        max_megapixels: the most pixels, in 10^6.

    Raises:
        PictureError: it cannot be used; the message goes on after the file's name.
    """
    try:
        if path.stat().st_size == 0:
            raise PictureError("is empty (0 bytes)")
        with _no_pixel_limit(), Image.open(path, formats=FORMATS) as image:
            _check_header(image, min_side, max_megapixels)
            image.load()
            return normalised(image)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(_what_it_is(path)) from error
    except PermissionError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise PictureError("does not fit in memory: lower style_set.max_megapixels") from error
    except Exception as error:  # a decoder raises almost anything on damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"is damaged or cut off: {reason}") from error


@contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Pillow's own limit is fixed and only a warning at first; ours is a setting and a refusal."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            # Damaged EXIF or TIFF tags warn; the pixels are what counts, and those raise.
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_header(image: Image.Image, min_side: int, max_megapixels: float) -> None:
    width, height = image.size
    if width * height > max_megapixels * 1e6:
        raise PictureError(
            f"has {width} x {height} = {width * height / 1e6:.1f} megapixels; "
            f"style_set.max_megapixels allows {max_megapixels:g}"
        )
    if min(width, height) < min_side:
        raise PictureError(
            f"has {width} x {height} pixels; style_set.min_side asks for at least {min_side}"
        )
    frames = getattr(image, "n_frames", 1)
    if image.format in SEQUENCES and frames > 1:
        raise PictureError(
            f"is animated or has several pictures in it ({frames} {SEQUENCES[image.format]}): "
            "save the one you mean as a file of its own"
        )


def _what_it_is(path: Path) -> str:
    """Why Pillow does not know the file, as far as its first bytes tell."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[4:8] == b"ftyp":
        return "is a HEIC or video file, not what its name says: convert it to PNG or JPEG"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the picture: run `git lfs pull` where it came from"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page (HTML), not a picture: download the picture itself"
    try:
        start.decode("utf-8")
    except UnicodeDecodeError:
        return "is not a picture of a known format, or its start is damaged"
    return "is a text file, not a picture"
