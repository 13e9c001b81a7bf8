"""Pictures side by side under readable labels: a column a model or strength, a row a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files

from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (250, 249, 246)
INK = (33, 33, 36)
MUTED = (96, 94, 90)
SMALL = 128
"""Pixels: a picture up to this side is shown with its pixels, enlarged a whole number of times."""

SHOWN_SIDE = 256
"""What small pictures are enlarged towards, never beyond."""

LARGEST_SIDE = 384
"""Larger pictures are shown at it."""

MARGIN = 24
GAP = 10
TITLE_SIZE, HEADING_SIZE, LABEL_SIZE = 22, 17, 15
LINE = 1.35
"""The height of a line of text, in its size."""


@dataclass(frozen=True)
class GridRow:
    """Pictures of one row, and what is written above them."""

    label: str
    pictures: Sequence[Image.Image]


def labelled_grid(title: str, headings: Sequence[str], rows: Sequence[GridRow]) -> Image.Image:
    """One picture of all ``rows``: the title, a heading over each column, a label over each row.

    Raises:
        ValueError: there are no rows, or one has not as many pictures as there are headings.
    """
    if not rows or any(len(row.pictures) != len(headings) for row in rows):
        raise ValueError("a grid needs rows, each with as many pictures as there are headings")
    shown = [[fitted(picture) for picture in row.pictures] for row in rows]
    cell_width = max(picture.width for row in shown for picture in row)
    inner = max(
        len(headings) * (cell_width + GAP) - GAP,
        *(_width(text, _font(HEADING_SIZE, bold=True)) for text in headings),
    )
    title_lines = _wrapped(title, _font(TITLE_SIZE, bold=True), inner)
    labels = [_wrapped(row.label, _font(LABEL_SIZE), inner) for row in rows]
    heights = [max(picture.height for picture in row) for row in shown]
    height = 2 * MARGIN + _lines(title_lines, TITLE_SIZE) + GAP + _lines([""], HEADING_SIZE)
    height += sum(
        GAP + _lines(lines, LABEL_SIZE) + GAP // 2 + tall + GAP
        for lines, tall in zip(labels, heights, strict=True)
    )
    grid = Image.new("RGB", (inner + 2 * MARGIN, height), BACKGROUND)
    pen = ImageDraw.Draw(grid)

    top = _write(pen, title_lines, MARGIN, _font(TITLE_SIZE, bold=True), INK) + GAP
    for column, heading in enumerate(headings):
        middle = MARGIN + column * (cell_width + GAP) + cell_width / 2
        pen.text((middle, top), heading, fill=INK, font=_font(HEADING_SIZE, bold=True), anchor="ma")
    top += _lines([""], HEADING_SIZE)
    for lines, row, tall in zip(labels, shown, heights, strict=True):
        top = _write(pen, lines, top + GAP, _font(LABEL_SIZE), MUTED) + GAP // 2
        for column, picture in enumerate(row):
            left = MARGIN + column * (cell_width + GAP) + (cell_width - picture.width) // 2
            grid.paste(picture, (left, top + (tall - picture.height) // 2))
        top += tall + GAP
    return grid


def fitted(picture: Image.Image) -> Image.Image:
    """``picture`` at the size it is shown: small ones enlarged, large ones reduced."""
    picture = picture.convert("RGB")
    longer = max(picture.size)
    if longer <= SMALL:
        times = max(1, SHOWN_SIDE // longer)
        size = (picture.width * times, picture.height * times)
        return picture.resize(size, Image.Resampling.NEAREST)
    if longer > LARGEST_SIDE:
        picture = picture.copy()
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: it has Greek and Cyrillic, unlike Pillow's own."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    with as_file(files("matplotlib") / "mpl-data" / "fonts" / "ttf" / name) as path:
        return ImageFont.truetype(path, size)


def _width(text: str, font: ImageFont.FreeTypeFont) -> int:
    return round(font.getlength(text))


def _lines(lines: Sequence[str], size: int) -> int:
    return round(len(lines) * size * LINE)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _write(
    pen: ImageDraw.ImageDraw,
    lines: Sequence[str],
    top: int,
    font: ImageFont.FreeTypeFont,
    colour: tuple[int, int, int],
) -> int:
    """Write ``lines`` from ``top`` down; where the next thing may begin."""
    for number, line in enumerate(lines):
        pen.text((MARGIN, top + round(number * font.size * LINE)), line, fill=colour, font=font)
    return top + _lines(lines, round(font.size))
