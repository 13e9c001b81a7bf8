"""Pictures whose rows are not all there, or whose header has another size than their data."""

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nsync_pipeline.errors import PictureError
from nsync_pipeline.pictures import completeness
from nsync_pipeline.pictures.completeness import Watched, require_all_rows
from nsync_pipeline.pictures.decoding import decode_picture
from tests.support.picture_files import textured

WIDTH, HEIGHT = 160, 120


def encoded(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    (image or textured(1, WIDTH, HEIGHT)).save(out, form, **options)
    return out.getvalue()


def jpeg_of(size: tuple[int, int], content: bytes) -> bytes:
    """With another size in the header of its frame."""
    at = 2
    while content[at + 1] not in (0xC0, 0xC2):
        at += 2 + struct.unpack_from(">H", content, at + 2)[0]
    return content[: at + 5] + struct.pack(">HH", size[1], size[0]) + content[at + 9 :]


def png_of(size: tuple[int, int], rows: int = HEIGHT, interlace: bool = False) -> bytes:
    """A header of this size, and so many rows of ``WIDTH`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    pixels = np.asarray(textured(1, WIDTH, HEIGHT)).reshape(HEIGHT, -1)[:rows]
    data = np.pad(pixels, ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, int(interlace))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp_of(size: tuple[int, int]) -> bytes:
    content = encoded("BMP")
    return content[:18] + struct.pack("<ii", *size) + content[26:]


def tiff_of(tag: int, value: int, **options: Any) -> bytes:
    """With another value of a tag in its directory."""
    content = bytearray(encoded("TIFF", **options))
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, at)[0] == tag:
            short = struct.unpack_from("<H", content, at + 2)[0] == 3
            struct.pack_into(
                "<HH" if short else "<I", content, at + 8, *([value, 0] if short else [value])
            )
    return bytes(content)


def gif_of(size: tuple[int, int]) -> bytes:
    """With another size of the screen and of the picture on it."""
    content = encoded("GIF")
    at = content.index(b"\x2c\0\0\0\0") + 5
    stated = struct.pack("<HH", *size)
    return content[:6] + stated + content[10:at] + stated + content[at + 4 :]


def tiled_tiff(
    image: Image.Image, size: tuple[int, int] | None = None, tiles: int | None = None,
    deflated: bool = False,
) -> bytes:  # fmt: skip
    """In tiles of 64 x 48, with a header of this size, and so many of its tiles."""
    wide, high, (width, height) = 64, 48, image.size
    whole = Image.new("RGB", (-(-width // wide) * wide, -(-height // high) * high))
    whole.paste(image)
    corners = [(x, y) for y in range(0, height, high) for x in range(0, width, wide)][:tiles]
    parts = [whole.crop((x, y, x + wide, y + high)).tobytes() for x, y in corners]
    parts = [zlib.compress(part) for part in parts] if deflated else parts
    width, height = size or image.size
    count, first = len(parts), 8 + 2 + 11 * 12 + 4
    arrays = first + 6, first + 6 + 4 * count  # bits before them; then where tiles are, and sizes
    data = arrays[1] + 4 * count
    places = [data + sum(map(len, parts[:n])) for n in range(count)]
    entries = (
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, first),
        (259, 3, 1, 8 if deflated else 1), (262, 3, 1, 2), (277, 3, 1, 3), (284, 3, 1, 1),
        (322, 4, 1, wide), (323, 4, 1, high),
        (324, 4, count, arrays[0] if count > 1 else places[0]),
        (325, 4, count, arrays[1] if count > 1 else len(parts[0])),
    )  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"".join((
        b"II*\0", struct.pack("<IH", 8, len(entries)), directory, struct.pack("<I3H", 0, 8, 8, 8),
        struct.pack(f"<{count}I", *places), struct.pack(f"<{count}I", *map(len, parts)), *parts,
    ))  # fmt: skip


def cut(content: bytes, share: float) -> bytes:
    """A JPEG that ends early, as if that were its end."""
    return content[: int(len(content) * share)] + b"\xff\xd9"


BASELINE, PROGRESSIVE = encoded("JPEG"), encoded("JPEG", progressive=True)
FALSE: dict[str, bytes] = {
    **{f"jpeg cut at {s}": cut(BASELINE, s) for s in (0.5, 0.8, 0.95)},
    **{f"progressive cut at {s}": cut(PROGRESSIVE, s) for s in (0.5, 0.9)},
    "jpeg with a hole": BASELINE[:1500] + b"\xff\xd9" + BASELINE[1500:],
    **{
        f"{kind} of {size}": jpeg_of(size, content)
        for kind, content in {"jpeg": BASELINE, "progressive": PROGRESSIVE}.items()
        for size in ((WIDTH, 240), (240, HEIGHT), (WIDTH, 60), (80, HEIGHT))
    },
    "png without its last rows": png_of((WIDTH, HEIGHT), rows=100),
    **{f"png of {s}": png_of(s) for s in ((WIDTH, 240), (WIDTH, 60), (240, HEIGHT), (80, HEIGHT))},
    **{f"bmp of {s}": bmp_of(s) for s in ((WIDTH, 240), (WIDTH, 60), (240, HEIGHT), (80, HEIGHT))},
    **{f"tiff {t}={v}": tiff_of(t, v) for t, v in ((257, 240), (257, 60), (256, 240), (256, 80))},
    **{
        f"tiff of 257={v}, {c}": tiff_of(257, v, compression=c, strip_size=8192)
        for v in (240, 30)
        for c in ("tiff_lzw", "tiff_deflate", "jpeg")
    },
    **{f"gif of {s}": gif_of(s) for s in ((WIDTH, 240), (WIDTH, 60), (240, HEIGHT), (80, HEIGHT))},
    **{
        f"tiles of {size}, {deflated}": tiled_tiff(textured(1, WIDTH, HEIGHT), size, None, deflated)
        for size in ((WIDTH, 240), (WIDTH, 60), (240, HEIGHT), (60, HEIGHT))
        for deflated in (False, True)
    },
    **{f"{n} of 9 tiles": tiled_tiff(textured(1, WIDTH, HEIGHT), tiles=n) for n in (1, 5, 8)},
}  # fmt: skip


@pytest.mark.parametrize("kind", FALSE)
def test_missing_rows_and_false_sizes_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.picture"
    path.write_bytes(FALSE[kind])
    with pytest.raises(PictureError, match=r"is cut off|has more data|is damaged"):
        decode_picture(path, 8, 100)


FORMS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": lambda image: encoded("JPEG", image.convert("RGB")),
    "JPEG grey": lambda image: encoded("JPEG", image.convert("L"), quality=30),
    "JPEG CMYK": lambda image: encoded("JPEG", image.convert("CMYK")),
    "JPEG 4:4:4": lambda image: encoded("JPEG", image, subsampling=0, quality=100, optimize=True),
    "JPEG restarts": lambda image: encoded("JPEG", image, restart_marker_rows=1),
    "JPEG progressive": lambda image: encoded("JPEG", image, progressive=True),
    "JPEG progressive grey": lambda image: encoded("JPEG", image.convert("L"), progressive=True),
    "PNG": lambda image: encoded("PNG", image),
    "PNG palette": lambda image: encoded("PNG", image.quantize(7)),
    "PNG bits": lambda image: encoded("PNG", image.convert("1")),
    "PNG alpha": lambda image: encoded("PNG", image.convert("RGBA")),
    "PNG 16": lambda image: encoded("PNG", image.convert("I;16")),
    "BMP": lambda image: encoded("BMP", image),
    "BMP palette": lambda image: encoded("BMP", image.quantize(7)),
    "TIFF": lambda image: encoded("TIFF", image),
    "TIFF bits": lambda image: encoded("TIFF", image.convert("1")),
    "TIFF lzw": lambda image: encoded("TIFF", image, compression="tiff_lzw"),
    "TIFF jpeg": lambda image: encoded("TIFF", image, compression="jpeg"),
    "TIFF tiles": tiled_tiff,
    "TIFF tiles deflated": lambda image: tiled_tiff(image, deflated=True),
    "WEBP": lambda image: encoded("WEBP", image),
    "GIF": lambda image: encoded("GIF", image),
    "GIF in rows": lambda image: encoded("GIF", image, interlace=0, comment=b"\x2c"),
}
SHADE = st.sampled_from([0, 1, 127, 128, 129, 254, 255])


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """Of any size; part of it flat, in grey too, as a decoder leaves what it had no data for."""
    width, height = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    image = textured(draw(st.integers(0, 50)), width, height)
    flat = draw(st.tuples(SHADE, SHADE, SHADE) | SHADE.map(lambda shade: (shade,) * 3))
    top = draw(st.integers(0, height))
    image.paste(flat, (0, top, width, height))
    return image


@given(height=st.integers(20, 300), more=st.integers(16, 200), quality=st.integers(20, 95))
@settings(deadline=None, max_examples=40)
def test_a_baseline_jpeg_is_decoded_once(height: int, more: int, quality: int) -> None:
    """Its data has been asked for to the end: more rows than the header's show in that."""
    content = encoded("JPEG", textured(height, 80, height + more), quality=quality)
    false = jpeg_of((80, height), content)
    for given_content, is_whole in ((content, True), (false, False)):
        file = Watched(given_content)
        with Image.open(file) as opened:
            opened.load()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Image, "open", None)
            if completeness._ends_in_grey(opened):
                continue
            if is_whole:
                require_all_rows(opened, file)
                continue
            with pytest.raises(PictureError, match="more data"):
                require_all_rows(opened, file)


@settings(deadline=None, max_examples=100)
@given(pictures(), st.sampled_from(sorted(FORMS)))
def test_no_whole_picture_is_refused(image: Image.Image, form: str) -> None:
    file = Watched(FORMS[form](image))
    with Image.open(file) as opened:
        opened.load()
        require_all_rows(opened, file)


@pytest.mark.parametrize("shade", [116, 127, 129, 136, 141])
def test_a_whole_picture_that_ends_in_nearly_grey_is_taken(shade: int) -> None:
    """A progressive JPEG's first scan has only noughts for it, and as many as wanted can go."""
    image = textured(1, 73, 191)
    image.paste((shade, shade, shade), (0, 31, 73, 191))
    file = Watched(encoded("JPEG", image, progressive=True))
    with Image.open(file) as opened:
        opened.load()
        require_all_rows(opened, file)


def test_an_interlaced_png_is_read() -> None:
    """Adam7 of 3 x 5 grey pixels: passes of 1 + 1, 0, 1 x (1 + 1), 1 x (1 + 1), ... bytes."""
    passes = [(1, 1), (0, 1), (1, 1), (1, 2), (2, 1), (1, 3), (3, 2)]
    data = b"".join(bytes(1 + columns) * rows for columns, rows in passes if columns)
    header = struct.pack(">IIBBBBB", 3, 5, 8, 0, 0, 0, 1)

    def file(data: bytes) -> bytes:
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
            for kind, part in parts
        )

    with Image.open(io.BytesIO(file(data))) as image:
        image.load()
        require_all_rows(image, Watched(file(data)))
        with pytest.raises(PictureError, match="no data for its last rows"):
            require_all_rows(image, Watched(file(data[:-4])))


@settings(deadline=None, max_examples=60, database=None, derandomize=True)
@given(data=st.data())
def test_any_bytes_are_a_picture_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A file of each form with bytes changed, put in, or cut off; what is taken has its size."""
    content = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly where headers are.
        at = data.draw(st.integers(0, 200) | st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.mktemp("any") / "a.picture"
    path.write_bytes(content[: data.draw(st.just(2**20) | st.integers(0, len(content)))])
    with suppress(PictureError):
        picture = decode_picture(path, 1, 0.1)
        assert picture.mode == "RGB"
        assert picture.width * picture.height <= 1e5


WHOLE = {form: write(textured(1, 40, 30)) for form, write in FORMS.items()}
