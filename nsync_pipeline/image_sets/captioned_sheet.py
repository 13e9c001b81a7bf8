"""A few pictures with what is said of each, to be read at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from nsync_pipeline.image_sets.contact_sheet import (
    BACKGROUND,
    INK,
    PREVIEW_BYTES,
    as_jpeg,
    titled,
)

NOTE_INK = (176, 32, 32)
SIDE = 72  # pixels of a picture's cell
TEXT_WIDTH = 600
TEXT_SIZE = 14
LINE = 18
GAP = 8


@dataclass(frozen=True)
class CaptionedThumbnail:
    """One row of the sheet."""

    image: Image.Image
    caption: str
    note: str = ""  # below the caption, in red


def captioned_preview(title: str, rows: Sequence[CaptionedThumbnail]) -> bytes:
    """A JPEG of less than ``PREVIEW_BYTES``: a row a picture; the last rows go where it is more.

    Raises:
        ValueError: there are no rows, or not even one fits.
    """
    for count in range(len(rows), 0, -1):
        sheet = titled(title, _sheet(rows[:count]))
        for quality in (88, 75, 60):
            jpeg = as_jpeg(sheet, quality)
            if len(jpeg) < PREVIEW_BYTES:
                return jpeg
    raise ValueError(f"no row of {len(rows)} fits in a preview of {PREVIEW_BYTES} bytes")


def _sheet(rows: Sequence[CaptionedThumbnail]) -> Image.Image:
    font = ImageFont.load_default(TEXT_SIZE)
    texts = [
        [(line, INK) for line in _wrapped(row.caption, font)]
        + [(line, NOTE_INK) for line in _wrapped(row.note, font)]
        for row in rows
    ]
    heights = [max(SIDE, len(lines) * LINE) for lines in texts]
    width = SIDE + TEXT_WIDTH + 3 * GAP
    sheet = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) + 1)), BACKGROUND)
    pen, top = ImageDraw.Draw(sheet), GAP
    for row, lines, height in zip(rows, texts, heights, strict=True):
        image = ImageOps.contain(row.image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(image, (GAP + (SIDE - image.width) // 2, top))
        for number, (line, ink) in enumerate(lines):
            pen.text((SIDE + 2 * GAP, top + number * LINE), line, fill=ink, font=font)
        top += height + GAP
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """``text`` in lines of at most ``TEXT_WIDTH`` pixels; a longer word is a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= TEXT_WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
