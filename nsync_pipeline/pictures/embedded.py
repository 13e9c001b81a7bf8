"""Pictures inside an HTML page: small ones pixel for pixel, large ones as a JPEG."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

PIXELATED_UP_TO = 128
"""Pixels; a picture this small is shown with its pixels, not blurred."""

SHARPNESS = 2
"""A large picture keeps so many pixels for each one shown, for dense screens."""

JPEG_QUALITY = 86


@dataclass(frozen=True)
class Picture:
    """A picture as the page embeds it."""

    source: str  # a data: URI
    width: int  # pixels of what is embedded
    height: int
    pixelated: bool
    alt: str


def embedded(image: Image.Image, alt: str, shown_side: int) -> Picture:
    """``image`` to be shown at ``shown_side`` pixels."""
    image = image.convert("RGB")
    if max(image.size) <= PIXELATED_UP_TO:
        return _picture(image, "PNG", alt, pixelated=True)
    most = SHARPNESS * shown_side
    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most), Image.Resampling.LANCZOS)
    return _picture(image, "JPEG", alt, pixelated=False)


def as_stored(jpeg: bytes, alt: str) -> Picture:
    """A stored JPEG, byte for byte."""
    with Image.open(io.BytesIO(jpeg)) as image:
        width, height = image.size
    content = base64.b64encode(jpeg).decode("ascii")
    return Picture(f"data:image/jpeg;base64,{content}", width, height, pixelated=False, alt=alt)


def _picture(image: Image.Image, kind: str, alt: str, pixelated: bool) -> Picture:
    buffer = io.BytesIO()
    if kind == "PNG":
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(
        source=f"data:image/{kind.lower()};base64,{content}",
        width=image.width,
        height=image.height,
        pixelated=pixelated,
        alt=alt,
    )
