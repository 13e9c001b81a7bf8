"""Where the pictures of a set lie, and the rows that describe them.

A small set is a folder that a person can look into: ``images/<id>.<ending>``, and one manifest. Of
more than ``FEW`` pictures, programs that version files take hours. So they lie in shards, by the
first two digits of their ids: ``images/ab.zip`` holds those that begin with ``ab``, and
``manifest.parquet/ab.parquet`` their rows. An id is a hash of the picture, so shards are about
equally full, and a picture more changes one of each kind; all other files keep their bytes.

A shard is a zip archive of files as they are, not compressed again: its list says where each
begins, it has a check sum of each, and every system can open it. A picture in it is named by the
path through it, ``images/ab.zip/<id>.jpg``.
"""

import hashlib
import io
import os
import shutil
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import file_sha256
from nsync_pipeline.ranks import usable_cores

FEW = 512
"""Pictures, or rows: above it a set is in shards. They are at most as many files, of both kinds."""
IMAGES = "images"
ARCHIVE = ".zip"


def by_shard(ids: Collection[str]) -> dict[str, list[str]] | None:
    """The ids of each shard, all in their order; None where there are so few that there is none."""
    if len(ids) <= FEW:
        return None
    shards: defaultdict[str, list[str]] = defaultdict(list)
    for one in sorted(ids):
        shards[one[:2]].append(one)
    return dict(shards)


@dataclass(frozen=True)
class StoredFile:
    """A picture of a set as its row names it."""

    file: str  # relative to the set's folder
    sha256: str


def store_pictures(folder: Path, pictures: Mapping[str, Path]) -> dict[str, StoredFile]:
    """Put files into the set at ``folder``, which has no pictures yet; what rows say of each.

    ``pictures`` are the files by id. They stay as they are, and so do their endings.
    """
    images = folder / IMAGES
    images.mkdir(parents=True)
    shards = by_shard(pictures)
    named = {one: f"{one}{path.suffix.lower()}" for one, path in pictures.items()}
    if shards is None:
        stored = {}
        for one, path in pictures.items():
            shutil.copyfile(path, images / named[one])
            digest = file_sha256(images / named[one])
            stored[one] = StoredFile(f"{IMAGES}/{named[one]}", digest)
        return stored

    def write(shard: str) -> Iterable[tuple[str, StoredFile]]:
        archive, ids = f"{shard}{ARCHIVE}", shards[shard]
        digests = _write_archive(images / archive, [(named[one], pictures[one]) for one in ids])
        files = (f"{IMAGES}/{archive}/{named[one]}" for one in ids)
        return zip(ids, map(StoredFile, files, digests), strict=True)

    with ThreadPoolExecutor(usable_cores()) as pool:  # reading, hashing and writing in C
        return {one: stored for shard in pool.map(write, shards) for one, stored in shard}


def _write_archive(path: Path, files: Sequence[tuple[str, Path]]) -> list[str]:
    """A zip of ``files``, names and where they are; the SHA-256 of each. No times, no owners."""
    digests = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, file in files:
            content = file.read_bytes()
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, content)
            digests.append(hashlib.sha256(content).hexdigest())
    return digests


def picture_sha256(path: Path) -> str:
    """The SHA-256 of a picture's file; raises as ``picture_file`` and ``file_sha256``."""
    if not _is_in_shard(path):
        return file_sha256(path)
    return hashlib.sha256(_from_shard(path)).hexdigest()


def picture_file(path: Path) -> Path | io.BytesIO:
    """What Pillow opens the picture at ``path`` from.

    Raises:
        MissingArtifactError: it lies in a shard that is damaged, or does not hold it.
    """
    return io.BytesIO(_from_shard(path)) if _is_in_shard(path) else path


def _is_in_shard(path: Path) -> bool:
    return path.parent.suffix == ARCHIVE and path.parent.is_file()


LOCAL_HEADER = 30  # bytes before a file's name in the archive


def _from_shard(path: Path) -> bytes:
    try:
        return _member(path.parent, path.name)
    except OSError as error:
        raise damaged(path, error) from error


def damaged(path: Path, why: object) -> MissingArtifactError:
    """The error of a stored picture that cannot be opened."""
    return MissingArtifactError(
        f"{path} is not there or is damaged: run the stage that makes it again. ({why})"
    )


def _member(shard: Path, name: str) -> bytes:
    """Of an archive: two reads, and no state but what is known of its list."""
    with shard.open("rb", buffering=0) as archive:
        stat, place = os.fstat(archive.fileno()), archive.fileno()
        held = _held(shard, (stat.st_ino, stat.st_size, stat.st_mtime_ns))
        if name not in held:
            raise OSError(f"{shard.name} does not hold it")
        start, size, checksum = held[name]
        if start >= 0 and start + size <= stat.st_size:
            header = os.pread(place, LOCAL_HEADER, start)
            if len(header) == LOCAL_HEADER:
                start += LOCAL_HEADER + sum(struct.unpack_from("<HH", header, 26))
                content = b"".join(_read(place, start, size))
                if len(content) == size and zlib.crc32(content) == checksum:
                    return content
    raise OSError(f"in {shard.name} it is not what its check sum says")


def _read(place: int, start: int, size: int) -> Iterable[bytes]:
    """In parts: the system reads two GiB at most at once."""
    while size > 0 and (part := os.pread(place, size, start)):
        start, size = start + len(part), size - len(part)
        yield part


@lru_cache(maxsize=2048)
def _held(shard: Path, state: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    """Of each file in the archive, where it begins, how long it is and its check sum.

    ``state`` is what the archive looks like: another one is read again.
    """
    try:
        with zipfile.ZipFile(shard) as archive:
            return {
                entry.filename: (entry.header_offset, entry.file_size, entry.CRC)
                for entry in archive.infolist()
                if entry.compress_type == zipfile.ZIP_STORED
            }
    # What zipfile raises of content that it does not expect.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, struct.error) as error:
        raise OSError(f"{shard.name} is no whole archive: {error}") from error
