"""Sheets: a set of pictures at a glance, with captions, or side by side under labels."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files

from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BACKGROUND = (244, 242, 238)
INK = (40, 40, 40)
GAP = 4
TITLE_SIZE = 15
BYTES_A_PIXEL = 4  # of a JPEG, at most
PREVIEW_BYTES = 100_000  # Dagster's event log grows several times what previews weigh


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    """The bytes of ``image`` as a JPEG; ``quality`` is PIL's."""
    buffer = io.BytesIO()
    # What is optimized is written from one block, and PIL's guess of a byte a pixel is too small
    # for what is rougher than noise: "broken data stream".
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, BYTES_A_PIXEL * image.width * image.height)
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def sharp_jpeg(image: Image.Image, quality: int) -> bytes:
    """The same, with colours at full resolution: of small pictures enlarged."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


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

    The quality is lowered first, then the size of the cells; ValueError where no size fits.
    """
    while side >= 16:
        sheet = titled(title, contact_sheet(images, columns, side))
        if jpeg := _light(sheet, (88, 78, 65)):
            return jpeg
        side = side * 3 // 4
    raise ValueError(f"{len(images)} images do not fit in a preview of {PREVIEW_BYTES} bytes")


def _light(
    image: Image.Image,
    qualities: Sequence[int],
    encoded: Callable[[Image.Image, int], bytes] = as_jpeg,
) -> bytes | None:
    """``image`` at the first of ``qualities`` that is less than ``PREVIEW_BYTES``, if any is."""
    jpegs = (encoded(image, quality) for quality in qualities)
    return next((jpeg for jpeg in jpegs if len(jpeg) < PREVIEW_BYTES), None)


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


def small_jpeg(image: Image.Image) -> bytes:
    """A sharp JPEG of less than ``PREVIEW_BYTES``: of lower quality first, then smaller."""
    while not (jpeg := _light(image, (88, 78, 65), sharp_jpeg)):
        image = image.reduce(2)
    return jpeg


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
    """A JPEG of less than ``PREVIEW_BYTES``, a row a picture; the last rows go where it is more.

    Raises:
        ValueError: there are no rows, or not even one fits.
    """
    for count in range(len(rows), 0, -1):
        if jpeg := _light(titled(title, _sheet(rows[:count])), (88, 75, 60)):
            return jpeg
    raise ValueError(f"no row of {len(rows)} fits in a preview of {PREVIEW_BYTES} bytes")


def _sheet(rows: Sequence[CaptionedThumbnail]) -> Image.Image:
    font = ImageFont.load_default(TEXT_SIZE)
    texts = [
        [(line, INK) for line in _wrapped(row.caption, font, TEXT_WIDTH)]
        + [(line, NOTE_INK) for line in _wrapped(row.note, font, TEXT_WIDTH)]
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


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels; a longer word is a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


GRID_BACKGROUND = (250, 249, 246)
GRID_INK = (33, 33, 36)
LABEL_INK = (96, 94, 90)
SMALL = 128  # pixels: up to this side a picture is enlarged a whole number of times
SHOWN_SIDE = 256  # pixels: what small pictures are enlarged towards, never beyond
LARGEST_SIDE = 384  # pixels: larger pictures are shown at it
MARGIN = 24
CELL_GAP = 10
GRID_TITLE_SIZE, HEADING_SIZE, LABEL_SIZE = 22, 17, 15
LINE_HEIGHT = 1.35  # of a line of text, in its size


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
    title_font, heading_font = _font(GRID_TITLE_SIZE, True), _font(HEADING_SIZE, True)
    label_font = _font(LABEL_SIZE)
    shown = [[fitted(picture) for picture in row.pictures] for row in rows]
    cell_width = max(picture.width for row in shown for picture in row)
    inner = max(
        len(headings) * (cell_width + CELL_GAP) - CELL_GAP,
        *(round(heading_font.getlength(text)) for text in headings),
    )
    title_lines = _wrapped(title, title_font, inner) or [""]
    labels = [_wrapped(row.label, label_font, inner) or [""] for row in rows]
    heights = [max(picture.height for picture in row) for row in shown]
    top_lines = _lines(title_lines, GRID_TITLE_SIZE) + CELL_GAP + _lines([""], HEADING_SIZE)
    height = 2 * MARGIN + top_lines
    height += sum(
        CELL_GAP + _lines(lines, LABEL_SIZE) + CELL_GAP // 2 + tall + CELL_GAP
        for lines, tall in zip(labels, heights, strict=True)
    )
    grid = Image.new("RGB", (inner + 2 * MARGIN, height), GRID_BACKGROUND)
    pen = ImageDraw.Draw(grid)

    top = _write(pen, title_lines, MARGIN, title_font, GRID_INK) + CELL_GAP
    for column, heading in enumerate(headings):
        middle = MARGIN + column * (cell_width + CELL_GAP) + cell_width / 2
        pen.text((middle, top), heading, fill=GRID_INK, font=heading_font, anchor="ma")
    top += _lines([""], HEADING_SIZE)
    for lines, row, tall in zip(labels, shown, heights, strict=True):
        top = _write(pen, lines, top + CELL_GAP, label_font, LABEL_INK) + CELL_GAP // 2
        for column, picture in enumerate(row):
            left = MARGIN + column * (cell_width + CELL_GAP) + (cell_width - picture.width) // 2
            grid.paste(picture, (left, top + (tall - picture.height) // 2))
        top += tall + CELL_GAP
    return grid


def fitted(picture: Image.Image) -> Image.Image:
    """``picture`` at the size it is shown: small ones enlarged, large ones reduced."""
    picture = picture.convert("RGB")
    longer = max(picture.size)
    if longer <= SMALL:
        times = max(1, SHOWN_SIDE // longer)
        size = (picture.width * times, picture.height * times)
        return picture.resize(size, Image.Resampling.NEAREST)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: it has Greek and Cyrillic, unlike Pillow's own."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    with as_file(files("matplotlib") / "mpl-data" / "fonts" / "ttf" / name) as path:
        return ImageFont.truetype(path, size)


def _lines(lines: Sequence[str], size: int) -> int:
    return round(len(lines) * size * LINE_HEIGHT)


def _write(
    pen: ImageDraw.ImageDraw,
    lines: Sequence[str],
    top: int,
    font: ImageFont.FreeTypeFont,
    colour: tuple[int, int, int],
) -> int:
    """Write ``lines`` from ``top`` down; where the next thing may begin."""
    for number, line in enumerate(lines):
        at = (MARGIN, top + round(number * font.size * LINE_HEIGHT))
        pen.text(at, line, fill=colour, font=font)
    return top + _lines(lines, round(font.size))
