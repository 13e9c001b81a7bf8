"""The Parquet manifests: one schema a picture set, one way to read and to write them.

Files are named by POSIX paths relative to the manifest's folder. Rows are in a fixed order (by
``id``), and the files carry no time stamps, so the same set always gives the same bytes. The
manifest of a large set is a folder of parts, one a shard (``layout``).
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import file_sha256, whole_file, whole_folder
from nsync_pipeline.pictures.layout import by_shard

TEXT = pa.string()
PART = ".parquet"

STYLE_SET = pa.schema(
    [
        pa.field("id", TEXT, nullable=False),  # 16 hex digits of the SHA-256 of the pixels
        pa.field("file", TEXT, nullable=False),  # images/<id>.<as the source's file ends>
        pa.field("sha256", TEXT, nullable=False),  # of the stored file
        pa.field("width", pa.int32(), nullable=False),  # pixels
        pa.field("height", pa.int32(), nullable=False),  # pixels
        pa.field("caption", TEXT),  # as found beside the picture; null where there is none
        pa.field(
            "caption_source", TEXT
        ),  # txt, caption, a metadata file's name, sketchbook; or null
        pa.field("split", TEXT, nullable=False),  # train or test
        pa.field("origin", TEXT, nullable=False),  # the file's name in the source
    ]
)

BY_MODEL = "model"  # the source of a caption that a vision-language model gave

CAPTIONS = pa.schema(
    [
        pa.field("id", TEXT, nullable=False),  # of the picture
        pa.field("caption", TEXT, nullable=False),  # content only: what is trained and drawn
        pa.field("raw_caption", TEXT, nullable=False),  # as it was found, or as the model said it
        pa.field("source", TEXT, nullable=False),  # as STYLE_SET.caption_source; or hand, model
        pa.field("removed_words", pa.list_(TEXT), nullable=False),
        pa.field("lost", TEXT),  # what was cut off to fit the text encoder; null where all fits
    ]
)

MORE_CAPTIONS = pa.schema(
    [
        pa.field("id", TEXT, nullable=False),  # <picture>_<k>, k from 1
        pa.field("picture", TEXT, nullable=False),  # its first caption is in CAPTIONS
        pa.field("caption", TEXT, nullable=False),  # content only, as there
    ]
)

NEGATIVE_SET = pa.schema(
    [
        pa.field("id", TEXT, nullable=False),  # <positive_id>_<k>
        pa.field("positive_id", TEXT, nullable=False),
        pa.field("k", pa.int32(), nullable=False),  # 0 .. negatives a positive - 1
        pa.field("file", TEXT, nullable=False),  # images/<id>.png
        pa.field("sha256", TEXT, nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("prompt", TEXT, nullable=False),  # "<caption> in the style of <generic style>"
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("base_model", TEXT, nullable=False),
        pa.field("base_revision", TEXT, nullable=False),  # pinned, or a hash of the weights
        pa.field("sampler", TEXT, nullable=False),  # scheduler class
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("guidance_scale", pa.float64(), nullable=False),
    ]
)

SAMPLES = pa.schema(
    [
        pa.field("id", TEXT, nullable=False),  # <prompt_id>_<k>
        pa.field("prompt_id", TEXT, nullable=False),  # id of the test picture whose caption it is
        pa.field("k", pa.int32(), nullable=False),  # 0 .. images a prompt - 1
        pa.field("file", TEXT, nullable=False),
        pa.field("sha256", TEXT, nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("caption", TEXT, nullable=False),  # content only
        pa.field("prompt", TEXT, nullable=False),  # what the model was given
        pa.field("seed", pa.int64(), nullable=False),  # the same for every variant and the base
        pa.field("variant", TEXT, nullable=False),  # a variant's name, or base
    ]
)


def write_manifest(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write ``rows`` to ``path`` in the order of their ids, whole or not at all.

    Where there are many, ``path`` is a folder of parts.

    Raises:
        ValueError: two rows have the same id, or a row does not fit the schema.
    """
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    ids = [row["id"] for row in ordered]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path}: ids must be unique")
    unknown = {key for row in ordered for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"{path}: columns not in the schema: {sorted(unknown)}")
    table = pa.Table.from_pylist([dict(row) for row in ordered], schema=schema)
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            raise ValueError(f"{path}: column {field.name} has empty cells")
    shards = by_shard(ids)
    if shards is None:
        with whole_file(path) as partial:
            pq.write_table(table, partial)
        return
    start = 0
    with whole_folder(path) as partial:
        for shard, members in shards.items():
            pq.write_table(table.slice(start, len(members)), partial / f"{shard}{PART}")
            start += len(members)


def read_manifest(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """The rows of the manifest at ``path``.

    Raises:
        MissingArtifactError: it is missing or damaged, or its columns are not the schema's.
    """
    return [row for part in _parts(path) for row in _read_part(part, schema)]


def manifest_sha256(path: Path) -> str:
    """The SHA-256 of the manifest at ``path``; of one in parts, over those of its parts.

    Raises:
        MissingArtifactError: it is missing.
    """
    if path.is_file():
        return file_sha256(path)
    listed = "".join(f"{file_sha256(part)}  {part.name}\n" for part in _parts(path))
    return hashlib.sha256(listed.encode()).hexdigest()


def _parts(path: Path) -> list[Path]:
    parts = [path] if path.is_file() else sorted(path.glob(f"*{PART}"))
    if not parts:
        raise MissingArtifactError(f"{path} is not there: run the stage that makes it first.")
    return parts


def _read_part(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise MissingArtifactError(
            f"{path} is damaged ({' '.join(str(error).split())[:200]}): run the stage that "
            "makes it again."
        ) from error
    if not table.schema.equals(schema):
        raise MissingArtifactError(
            f"{path} has other columns than this version writes: run the stage that makes it again."
        )
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
