"""Opening a picture of unknown origin: refused with a reason, or decoded whole."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from nsync_pipeline.errors import PictureError
from nsync_pipeline.given_files import in_its_place, read_given
from nsync_pipeline.pictures.completeness import Watched, require_all_rows

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
PROFILED_MODES = ("L", "RGB", "CMYK")
WHITE = (255, 255, 255, 255)
UPRIGHT = {  # what undoes each EXIF orientation (1 is upright)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def normalised(image: Image.Image) -> Image.Image:
    """``image`` turned upright, converted to sRGB, laid on white: mode RGB, 8 bits, no metadata.

    - EXIF orientation is applied; damaged EXIF counts as upright.
    - 16-bit grey becomes 8 bits by ``round(v / 257)``; Pillow has already cut 16-bit colour.
    - An embedded ICC profile is converted to sRGB (relative colorimetric, with black point
      compensation); one that is damaged or of another colour space counts as sRGB.
    - CMYK without a profile becomes ``(255 - c)(255 - k) / 255``.
    - What is transparent shows white.

    Raises:
        PictureError: the pixels are of a kind that has no one reading (floating point, Lab).
    """
    image.load()
    profile = image.info.get("icc_profile")
    opaque, alpha = _apart(_eight_bit(_upright(image)))
    coloured = _to_srgb(opaque, profile)
    if alpha is not None:
        coloured.putalpha(alpha)
        coloured = Image.alpha_composite(Image.new("RGBA", coloured.size, WHITE), coloured)
    # Of no file. Not a copy of its pixels: that takes as long as decoding them.
    plain = image._new(image.im) if coloured is image else _rgb(coloured)
    plain.info = {}  # nothing of the file's metadata comes along
    return plain


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, struct.error):
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.round(grey / 257).astype(np.uint8))
    if image.mode in ("I", "F", "LAB"):
        kinds = {"I": "32-bit integers", "F": "32-bit floating point", "LAB": "Lab colour"}
        raise PictureError(f"holds {kinds[image.mode]}: save it as 8- or 16-bit grey or RGB")
    return image


def _apart(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours in one of ``PROFILED_MODES``, and the alpha channel where there is one."""
    if image.has_transparency_data:
        grey = image.mode in ("LA", "La", "L", "1")
        rgba = image.convert("RGBA")
        return rgba.convert("L" if grey else "RGB"), rgba.getchannel("A")
    if image.mode in PROFILED_MODES:
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" in ImageCms.getProfileDescription(source):
                return _rgb(image)
            if image.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
                image = image.convert("RGB")
            converted = ImageCms.profileToProfile(
                image,
                source,
                SRGB,
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            return _rgb(image)
        if converted is not None:
            return converted
    return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    """Itself where it is already: copying a large picture takes half as long as decoding it."""
    return image if image.mode == "RGB" else image.convert("RGB")


FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Pillow reads more, some through outside programs (EPS through Ghostscript): not those."""
SEQUENCES = {"TIFF": "pages", "GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames"}
"""Not MPO, which Pillow makes of a camera's JPEG with a preview behind it: the first is meant."""


MOST_PIXEL_BYTES = 16  # of a picture's file; four channels of 32 bits
BESIDES = 2**26  # bytes: metadata, and a small picture's overhead


def most_bytes(max_megapixels: float) -> int:
    """Of the file of a picture of so many pixels, in 10^6."""
    return int(max_megapixels * 1e6) * MOST_PIXEL_BYTES + BESIDES


def decode_picture(path: Path, min_side: int, max_megapixels: float) -> Image.Image:
    """The picture at ``path``, ``normalised``; its size is checked before any pixel is decoded.

    Args:
        min_side: the least length of the shorter side, in pixels.
        max_megapixels: the most pixels, in 10^6.

    Raises:
        PictureError: it cannot be used; the message goes on after the file's name.
    """
    try:
        content = read_given(path, most_bytes(max_megapixels))
        if (other := in_its_place(content[:512], "the picture")) is not None:
            raise PictureError(other)
        file = Watched(content)
        with without_pixel_limit(), Image.open(file, formats=FORMATS) as image:
            _check_header(image, min_side, max_megapixels)
            image.load()
            require_all_rows(image, file)
            return normalised(image)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(_what_it_is(content[:512])) from error
    except MemoryError as error:
        raise PictureError("does not fit in memory: lower style_set.max_megapixels") from error
    except Exception as error:  # a decoder raises almost anything on damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"is damaged or cut off: {reason}") from error


@contextmanager
def without_pixel_limit() -> Iterator[None]:
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


def _what_it_is(start: bytes) -> str:
    """Why Pillow does not know the file, as far as its first bytes tell."""
    if start[4:8] == b"ftyp":
        return "is a HEIC or video file, not what its name says: convert it to PNG or JPEG"
    try:
        start.decode("utf-8")
    except UnicodeDecodeError:
        return "is not a picture of a known format, or its start is damaged"
    return "is a text file, not a picture"
