"""Contact sheets: a set of pictures at a glance."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

BACKGROUND = (244, 242, 238)
INK = (40, 40, 40)
GAP = 4
TITLE_SIZE = 15
PREVIEW_BYTES = 100_000
"""Previews travel in Dagster's event log, which grows several times what they weigh."""


def contact_sheet(images: Sequence[Image.Image], columns: int, side: int) -> Image.Image:
    """``images`` in reading order, ``columns`` a row, each whole in a cell of ``side`` pixels.

    Raises:
        ValueError: there are no images, or ``columns`` or ``side`` is below 1.
    """
    if not images or columns < 1 or side < 1:
        raise ValueError("a contact sheet needs at least one image, one column and one pixel")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    step = side + GAP
    sheet = Image.new("RGB", (columns * step + GAP, rows * step + GAP), BACKGROUND)
    for index, image in enumerate(images):
        fitted = ImageOps.contain(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
        row, column = divmod(index, columns)
        left = GAP + column * step + (side - fitted.width) // 2
        top = GAP + row * step + (side - fitted.height) // 2
        sheet.paste(fitted, (left, top))
    return sheet


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most ``most`` indices of ``range(count)``, evenly spaced from the first on."""
    if count <= most:
        return list(range(count))
    return [index * count // most for index in range(most)]


def preview(title: str, images: Sequence[Image.Image], columns: int = 8, side: int = 96) -> bytes:
    """A titled contact sheet as a JPEG of less than ``PREVIEW_BYTES``.

    The quality is lowered first, then the size of the cells, until it is small enough.

    Raises:
        ValueError: as ``contact_sheet``; or there are so many images that no cell size fits
            (choose some with ``evenly_spaced``).
    """
    while side >= 16:
        sheet = titled(title, contact_sheet(images, columns, side))
        for quality in (88, 78, 65):
            jpeg = as_jpeg(sheet, quality)
            if len(jpeg) < PREVIEW_BYTES:
                return jpeg
        side = side * 3 // 4
    raise ValueError(f"{len(images)} images do not fit in a preview of {PREVIEW_BYTES} bytes")


def titled(title: str, sheet: Image.Image) -> Image.Image:
    """``sheet`` below its title."""
    font = ImageFont.load_default(TITLE_SIZE)
    left, top, right, bottom = font.getbbox(title)
    width = max(sheet.width, math.ceil(right - left) + 2 * GAP)
    strip = math.ceil(bottom - top) + 3 * GAP
    titled = Image.new("RGB", (width, sheet.height + strip), BACKGROUND)
    ImageDraw.Draw(titled).text((GAP - left, 2 * GAP - top), title, fill=INK, font=font)
    titled.paste(sheet, (0, strip))
    return titled


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    """The bytes of ``image`` as a JPEG; ``quality`` is PIL's."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def sharp_jpeg(image: Image.Image, quality: int) -> bytes:
    """The same, with colours at full resolution: of small pictures enlarged."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def small_jpeg(image: Image.Image) -> bytes:
    """A sharp JPEG of less than ``PREVIEW_BYTES``: of lower quality first, then smaller."""
    while True:
        for quality in (88, 78, 65):
            jpeg = sharp_jpeg(image, quality)
            if len(jpeg) < PREVIEW_BYTES:
                return jpeg
        image = image.reduce(2)


NOTE_INK = (176, 32, 32)
SIDE = 72  # pixels of a picture's cell
TEXT_WIDTH = 600
TEXT_SIZE = 14
LINE = 18
ROW_GAP = 8


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
    width = SIDE + TEXT_WIDTH + 3 * ROW_GAP
    sheet = Image.new("RGB", (width, sum(heights) + ROW_GAP * (len(rows) + 1)), BACKGROUND)
    pen, top = ImageDraw.Draw(sheet), ROW_GAP
    for row, lines, height in zip(rows, texts, heights, strict=True):
        image = ImageOps.contain(row.image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(image, (ROW_GAP + (SIDE - image.width) // 2, top))
        for number, (line, ink) in enumerate(lines):
            pen.text((SIDE + 2 * ROW_GAP, top + number * LINE), line, fill=ink, font=font)
        top += height + ROW_GAP
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
