"""Whether a file holds all rows that its header names, and no more.

Decoders fill what is missing with grey or black and pass over what is too much, without a word.
"""

import io
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass

from PIL import Image

from nsync_pipeline.errors import PictureError

MISSING = "is cut off: it has no data for its last rows"
TOO_MUCH = "has more data than a picture of its size: its header is wrong, or rows got lost"


class Watched(io.BytesIO):
    """A file's content to decode, which sees whether the last of a JPEG's data is asked for."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content
        self.was_asked_for_all = False
        self._less = len(content)
        with suppress(struct.error, IndexError):  # what is damaged is told when it is decoded
            scans = _scans(content) if content[:2] == b"\xff\xd8" else None
            if scans is not None and scans.is_long:
                self._less = scans.less

    def read(self, size: int | None = -1, /) -> bytes:
        at = self.tell()
        if at >= self._less:
            self.was_asked_for_all = True
        elif size is not None and size >= 0:
            size = min(size, self._less - at)
        return super().read(size)


def require_all_rows(image: Image.Image, file: Watched) -> None:
    """Compare ``image``, as it was decoded from ``file``, with all that is in there.

    Raises:
        PictureError: rows are missing, or the size in the header is not that of the data.
    """
    content = file.content
    if image.format in ("JPEG", "MPO"):
        _check_jpeg(image, file)
    elif image.format == "PNG":
        _check_png(content)
    elif image.format == "BMP":
        _check_bmp(content)
    elif image.format == "TIFF":
        _check_tiff(image)
    elif image.format == "GIF":
        _check_gif(content)


MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""In the data of a scan; the others are stuffed bytes, fill bytes and restart markers."""
FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}
"""The kinds of frames that are checked: whether they are progressive."""
FILLER = b"\x5a\xa5\x33" * 4096
LITTLE = 64  # bytes of data, of which none can be spared
GREY = range(116, 141)  # round what a decoder leaves where it had no data: 128
BLOCK = 8  # pixels a side


def _check_jpeg(image: Image.Image, file: Watched) -> None:
    """Data more must change nothing, and data less must: else it had too little, or too much."""
    content = file.content
    found = _scans(content)
    if found is None:
        return

    def same(data: bytes) -> bool:
        with Image.open(io.BytesIO(data)) as again:
            again.load()
            return again.tobytes() == image.tobytes()

    is_grey = _ends_in_grey(image)
    first_end, end = found.first_end, found.end
    if (found.progressive or is_grey) and not same(content[:end] + FILLER + content[end:]):
        raise PictureError(MISSING)
    if is_grey or not found.is_long:
        return
    # What is decoded as it comes has all its rows without asking for the rest.
    at_once = found.progressive or first_end != end
    if same(content[: found.less] + content[first_end:]) if at_once else not file.was_asked_for_all:
        raise PictureError(TOO_MUCH)


def _ends_in_grey(image: Image.Image) -> bool:
    """Whether the last block, on average, is as a block without data."""
    left, top = (image.width - 1) // BLOCK * BLOCK, (image.height - 1) // BLOCK * BLOCK
    last = image.crop((left, top, image.width, image.height))
    mean = last.resize((1, 1), Image.Resampling.BOX).tobytes()
    return all(value in GREY for value in mean)


@dataclass(frozen=True)
class _Scans:
    start: int  # of the first scan's data
    first_end: int
    end: int  # of the last scan's
    progressive: bool

    @property
    def is_long(self) -> bool:
        return self.first_end - self.start >= LITTLE

    @property
    def less(self) -> int:
        """Where the last of the first scan's data begins, without which rows are missing."""
        return self.first_end - max((self.first_end - self.start) // 32, 16)


def _scans(content: bytes) -> _Scans | None:
    """Where the data of a picture lies; None where it is of a kind that is not checked."""
    at, scans, progressive = 2, list[tuple[int, int]](), False
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xD9:
            break
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2 + struct.unpack_from(">H", content, at + 2)[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker not in FRAMES:
                return None
            progressive = FRAMES[marker]
        if marker == 0xDA:
            following = MARKER.search(content, at)
            if following is None:
                return None
            scans.append((at, following.start()))
            at = following.start()
    return _Scans(*scans[0], scans[-1][1], progressive) if scans else None


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's colour type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2))  # fmt: skip


def _check_png(content: bytes) -> None:
    at, parts, header = 8, [], b""
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"IHDR":
            header = content[at + 8 : at + 8 + length]
        elif kind == b"IDAT":
            parts.append(content[at + 8 : at + 8 + length])
        at += 12 + length
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * CHANNELS[colour]

    def bytes_of(columns: int, rows: int) -> int:
        return rows * (1 + (columns * bits + 7) // 8) if columns and rows else 0

    expected = bytes_of(width, height)
    if interlaced:
        expected = sum(
            bytes_of(-((x - width) // dx), -((y - height) // dy))
            for x, y, dx, dy in ADAM7
            if x < width and y < height
        )
    row = bytes_of(width, 1)
    inflated = len(zlib.decompressobj().decompress(b"".join(parts), expected + row))
    if inflated < expected:
        raise PictureError(MISSING)
    if inflated == expected + row:
        raise PictureError(TOO_MUCH)


def _check_bmp(content: bytes) -> None:
    if len(content) < 38 or struct.unpack_from("<I", content, 14)[0] < 40:
        return
    width, height, _, bits, compression, size = struct.unpack_from("<iiHHII", content, 18)
    row = (width * bits + 31) // 32 * 4
    if compression in (0, 3) and size >= row * (abs(height) + 1):
        raise PictureError(TOO_MUCH)


WIDTH, HEIGHT, BITS, COMPRESSION, COLOURS, OFFSETS = 256, 257, 258, 259, 262, 273
ROWS, COUNTS, PLANES = 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
RAW, SUBSAMPLED = 1, 6


def _check_tiff(image: Image.Image) -> None:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS, (1,))
    planes = len(bits) if tags.get(PLANES, 1) == 2 else 1
    is_raw = tags.get(COMPRESSION, RAW) == RAW and tags.get(COLOURS) != SUBSAMPLED
    if TILE_OFFSETS in tags and TILE_COUNTS in tags:
        width, height = tags[TILE_WIDTH], tags[TILE_HEIGHT]
        tiles = -(-tags[WIDTH] // width) * -(-tags[HEIGHT] // height) * planes
        tile = (width * sum(bits) // planes + 7) // 8 * height
        missing = is_raw and sum(tags[TILE_COUNTS]) < tiles * tile
        if len(tags[TILE_OFFSETS]) < tiles or missing:
            raise PictureError(MISSING)
        if len(tags[TILE_OFFSETS]) > tiles:
            raise PictureError(TOO_MUCH)
    if OFFSETS not in tags or COUNTS not in tags:
        return
    height = image.height
    strips = -(-height // max(1, min(tags.get(ROWS, height), height))) * planes
    row = (tags[WIDTH] * sum(bits) + 7) // 8
    held = sum(tags[COUNTS]) if is_raw else row * height
    if len(tags[OFFSETS]) < strips or held < row * height:
        raise PictureError(MISSING)
    if len(tags[OFFSETS]) > strips or held >= row * (height + 1) + planes * strips * row:
        raise PictureError(TOO_MUCH)


DESCRIPTOR, EXTENSION = 0x2C, 0x21  # what a GIF's blocks begin with
TALLEST = 2**16 - 1


def _check_gif(content: bytes) -> None:
    """Where there is data for a row more than the header says, that is too much."""
    colours = content[10]
    at = 13 + (3 << (colours % 8 + 1) if colours >= 0x80 else 0)
    while content[at] != DESCRIPTOR:
        at += 1
        if content[at - 1] == EXTENSION:
            at += 1
            while content[at]:
                at += content[at] + 1
            at += 1
    (height,) = struct.unpack_from("<H", content, at + 7)
    if height == TALLEST:
        return
    taller = content[: at + 7] + struct.pack("<H", height + 1) + content[at + 9 :]
    with suppress(OSError), Image.open(io.BytesIO(taller), formats=("GIF",)) as image:
        image.load()
        raise PictureError(TOO_MUCH)
