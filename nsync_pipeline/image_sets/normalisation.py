"""Any decoded picture as 8-bit sRGB: what is trained on, compared and shown."""

import io
import struct

import numpy as np
from PIL import ExifTags, Image, ImageCms

from nsync_pipeline.errors import PictureError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
PROFILED_MODES = ("L", "RGB", "CMYK")
WHITE = (255, 255, 255, 255)
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (1 is upright)."""


def normalised(image: Image.Image) -> Image.Image:
    """``image`` turned upright, converted to sRGB, laid on white: mode RGB, 8 bits, no metadata.

    - EXIF orientation is applied; damaged EXIF counts as upright.
    - 16-bit grey becomes 8 bits by ``round(v / 257)``; Pillow has already cut 16-bit colour.
    - An embedded ICC profile is converted to sRGB (relative colorimetric, with black point
      compensation). A profile that is damaged or of another colour space than the pixels cannot be
      followed: the pixels are then read as sRGB, which is what most viewers show.
    - CMYK without a profile becomes ``(255 - c)(255 - k) / 255``.
    - What is transparent shows white.

    Raises:
        PictureError: the pixels are of a kind that has no one reading (floating point, Lab).
    """
    profile = image.info.get("icc_profile")
    opaque, alpha = _apart(_eight_bit(_upright(image)))
    coloured = _to_srgb(opaque, profile)
    if alpha is not None:
        coloured.putalpha(alpha)
        coloured = Image.alpha_composite(Image.new("RGBA", coloured.size, WHITE), coloured)
    # From bytes, so that nothing of the file's metadata comes along.
    return Image.frombytes("RGB", coloured.size, coloured.convert("RGB").tobytes())


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
                return image.convert("RGB")
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
            return image.convert("RGB")
        if converted is not None:
            return converted
    return image.convert("RGB")
