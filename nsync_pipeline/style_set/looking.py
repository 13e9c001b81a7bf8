"""Looking at the pictures of a source: each is decoded once, in a process a core.

What is seen of a picture decides whether it is taken, and does not depend on the others. So files
are looked at side by side, and what was seen of a file is kept by its content: after one is added,
one is decoded.
"""

import base64
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import PIL
from PIL import Image

from nsync_pipeline.errors import PictureError
from nsync_pipeline.files import parse_json
from nsync_pipeline.given_files import given_sha256
from nsync_pipeline.pictures.decoding import most_bytes
from nsync_pipeline.pictures.near_duplicates import LOOK_SIDE, Look, look_of
from nsync_pipeline.ranks import usable_cores

MANY = 64
"""From so many files on there are several processes: starting one takes as long as some files."""
AT_ONCE = 8  # files a process is given

Read = Callable[[], Image.Image]


class Readable(Protocol):
    """What is looked at."""

    @property
    def read(self) -> Read: ...
    @property
    def path(self) -> Path | None: ...


Source = TypeVar("Source", bound=Readable)


@dataclass(frozen=True)
class Seen:
    """What is seen of a picture."""

    pixels: str  # its ``pixel_sha256``
    width: int
    height: int
    look: Look


def pixel_sha256(image: Image.Image) -> str:
    """SHA-256 over ``<width>x<height>`` in ASCII, a zero byte, and the RGB bytes row by row."""
    digest = hashlib.sha256(f"{image.width}x{image.height}\0".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def looked_at(
    sources: Sequence[Source], min_side: int, max_megapixels: float, kept: Path | None
) -> Iterator[tuple[Source, Seen | PictureError]]:
    """Each of ``sources`` in order, and what is seen of it, or why it cannot be used.

    ``kept`` is the file of what was seen before; None: nothing is kept.
    """
    keys: dict[Path, str] = {}
    known = _Known()
    if kept is not None:
        for path in (source.path for source in sources if source.path is not None):
            with suppress(PictureError):  # why it cannot be read is told when it is looked at
                digest = given_sha256(path, most_bytes(max_megapixels))
                keys[path] = f"{digest} Pillow {PIL.__version__}"
        known = _Known(kept, set(keys.values()))

    def place_of(source: Source) -> int | None:
        entry = None if source.path is None else known.of.get(keys.get(source.path, ""))
        if entry is None:
            return None
        # What is refused for its size is looked at again: the message says which limit.
        small, large = min(entry.width, entry.height) < min_side, max_megapixels * 1e6
        return None if small or entry.width * entry.height > large else entry.start

    before = [place_of(source) for source in sources]
    new = [source for source, start in zip(sources, before, strict=True) if start is None]
    looks = _looks([source.read for source in new if source.path is not None])
    written: dict[str, Seen] = {}
    try:
        for source, start in zip(sources, before, strict=True):
            found: Seen | PictureError
            if start is not None:
                found = known.seen(start)
            elif source.path is None:
                found = _look(source.read)
            else:
                found = next(looks)
                if isinstance(found, Seen) and source.path in keys:
                    written[keys[source.path]] = found
            yield source, found
            if kept is not None and len(written) == MANY:
                _add(kept, written)
                written.clear()
    finally:
        looks.close()
        known.close()
        if kept is not None and written:
            _add(kept, written)


def _looks(reads: Sequence[Read]) -> Generator[Seen | PictureError, None, None]:
    """What is seen of each, in order, whatever the number of processes."""
    processes = min(usable_cores(), len(reads) // MANY + 1)
    if processes == 1:
        yield from map(_look, reads)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_look, reads, AT_ONCE)


def _look(read: Read) -> Seen | PictureError:
    try:
        image = read()
    except PictureError as error:
        return error
    return Seen(pixel_sha256(image), image.width, image.height, look_of(image))


@dataclass(frozen=True)
class _Entry:
    """What was seen of a file, without its look."""

    start: int  # where it is in the file of all
    width: int
    height: int


class _Known:
    """What was seen before, read from its file when it is asked for: looks are 3 KB each."""

    def __init__(self, file: Path | None = None, wanted: Collection[str] = ()) -> None:
        self.of: dict[str, _Entry] = {}  # by key
        self._stream = file.open("rb") if file is not None and file.is_file() else None
        start = 0
        for line in self._stream or ():
            with suppress(ValueError, KeyError, TypeError):  # cut off in the middle of writing
                content = parse_json(line)
                if content["key"] in wanted:
                    seen = _seen(content)
                    self.of[str(content["key"])] = _Entry(start, seen.width, seen.height)
            start += len(line)

    def seen(self, start: int) -> Seen:
        assert self._stream is not None, "it was read from there"
        self._stream.seek(start)
        return _seen(parse_json(self._stream.readline()))

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _add(file: Path, new: Mapping[str, Seen]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"key": key, **_entry(seen)}) + "\n" for key, seen in new.items())
    with file.open("a", encoding="utf-8") as stream:
        # A line break first: what a crash left without one must not swallow this line.
        stream.write(f"\n{lines}")


def _entry(seen: Seen) -> dict[str, Any]:
    look = seen.look
    arrays = (look.difference_hash, look.mirrored_hash, look.pixels)
    text = base64.b64encode(b"".join(array.tobytes() for array in arrays)).decode()
    return {"pixels": seen.pixels, "width": seen.width, "height": seen.height, "look": text}


def _seen(entry: Mapping[str, Any]) -> Seen:
    content = base64.b64decode(entry["look"], validate=True)
    hashes = np.frombuffer(content[:64], np.uint64).reshape(2, 4)
    pixels = np.frombuffer(content[64:], np.uint8).reshape(LOOK_SIDE, LOOK_SIDE, 3)
    width, height = int(entry["width"]), int(entry["height"])
    return Seen(
        str(entry["pixels"]), width, height, Look(width / height, hashes[0], hashes[1], pixels)
    )
