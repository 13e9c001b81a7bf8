"""Pictures inside an HTML page: small ones pixel for pixel, large ones as a JPEG."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from nsync_pipeline.pictures.sheets import as_jpeg

PIXELATED_UP_TO = 128  # pixels; a picture this small is shown with its pixels, not blurred
SHARPNESS = 2  # a large picture keeps so many pixels for each one shown, for dense screens
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
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        return Picture(_uri("png", buffer.getvalue()), *image.size, pixelated=True, alt=alt)
    most = SHARPNESS * shown_side
    image.thumbnail((most, most), Image.Resampling.LANCZOS)
    jpeg = _uri("jpeg", as_jpeg(image, JPEG_QUALITY))
    return Picture(jpeg, *image.size, pixelated=False, alt=alt)


def as_stored(jpeg: bytes, alt: str) -> Picture:
    """A stored JPEG, byte for byte."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return Picture(_uri("jpeg", jpeg), *image.size, pixelated=False, alt=alt)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
