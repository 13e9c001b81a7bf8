"""A film-strip: what a training drew at each look, side by side."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from nsync_pipeline.pictures.sheets import BACKGROUND, GAP, INK

STRIP_FILE = "looks.jpg"
STRIP_QUALITY = 92

HEADING_SIZE = 13
SMALL = 64
"""Pixels; pictures this small are shown at twice their size, their pixels kept."""

CELL = 128
"""Pixels a cell has at most."""

MOST_COLUMNS = 12
MISSING = (216, 212, 204)
"""The colour of a cell that no picture is there for."""


def shown_columns(count: int, most: int = MOST_COLUMNS) -> list[int]:
    """At most ``most`` (two or more) of ``range(count)``, evenly, the first and the last always."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def film_strip(
    rows: Sequence[Sequence[Image.Image | None]], headings: Sequence[str]
) -> Image.Image:
    """``rows`` of pictures under the ``headings`` of their columns.

    A None leaves its cell empty.

    Raises:
        ValueError: there is no picture, or a row is not as long as the headings.
    """
    pictures = [picture for row in rows for picture in row if picture is not None]
    if not pictures or any(len(row) != len(headings) for row in rows):
        raise ValueError("a film-strip needs a picture, and a heading for each column")
    largest = max(max(picture.size) for picture in pictures)
    side = 2 * largest if largest <= SMALL else min(largest, CELL)
    step, font = side + GAP, ImageFont.load_default(HEADING_SIZE)
    top = HEADING_SIZE + 3 * GAP
    strip = Image.new("RGB", (len(headings) * step + GAP, len(rows) * step + GAP + top), BACKGROUND)
    write = ImageDraw.Draw(strip)
    for column, heading in enumerate(headings):
        write.text((GAP + column * step, GAP), heading, fill=INK, font=font)
        for row, cells in enumerate(rows):
            left, above = GAP + column * step, top + row * step
            picture = cells[column]
            if picture is None:
                write.rectangle((left, above, left + side - 1, above + side - 1), fill=MISSING)
                continue
            fitted = _fitted(picture.convert("RGB"), side)
            offset = ((side - fitted.width) // 2, (side - fitted.height) // 2)
            strip.paste(fitted, (left + offset[0], above + offset[1]))
    return strip


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """As large as goes into the cell; small ones by a whole factor, so that no pixel is blurred."""
    factor = math.floor(side / max(picture.size))
    if factor >= 2:
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    return ImageOps.contain(picture, (side, side), Image.Resampling.LANCZOS)
