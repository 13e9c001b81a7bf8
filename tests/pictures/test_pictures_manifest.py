"""Manifests: the same rows give the same bytes, and no wrong row gets in."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    NEGATIVE_SET,
    SAMPLES,
    STYLE_SET,
    read_manifest,
    write_manifest,
)


def row(identifier: str, **changes: Any) -> dict[str, Any]:
    whole = {
        "id": identifier, "caption": "a boat", "raw_caption": "a painted boat", "source": "txt",
        "removed_words": ["painted"], "lost": None,
    }  # fmt: skip
    return whole | changes


def test_the_same_rows_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "m.parquet", tmp_path / "b" / "m.parquet"
    write_manifest(first, [row("1"), row("2"), row("3")], CAPTIONS)
    write_manifest(second, (row(i) for i in "312"), CAPTIONS)

    assert first.read_bytes() == second.read_bytes()


def test_writing_again_over_a_manifest_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, [row("1"), row("2")], CAPTIONS)
    before = path.read_bytes()
    write_manifest(path, [row("1")], CAPTIONS)
    write_manifest(path, [row("2"), row("1")], CAPTIONS)

    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.parquet"]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    rows = [row("1", caption="ein Boot — 船"), row("2", removed_words=[])]
    write_manifest(path, rows, CAPTIONS)

    assert read_manifest(path, CAPTIONS) == rows


def test_two_rows_of_one_id_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ids must be unique"):
        write_manifest(tmp_path / "m.parquet", [row("1"), row("1")], CAPTIONS)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"caption": None}, "column caption has empty cells"),
        ({"colour": "red"}, r"columns not in the schema: \['colour'\]"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        write_manifest(tmp_path / "m.parquet", [row("1", **changes)], CAPTIONS)

    assert not list(tmp_path.iterdir())


def test_a_cell_left_out_counts_as_empty(tmp_path: Path) -> None:
    lacking = row("1")
    del lacking["source"]
    with pytest.raises(ValueError, match="column source has empty cells"):
        write_manifest(tmp_path / "m.parquet", [lacking], CAPTIONS)


def test_a_caption_may_be_missing_from_a_style_set(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    picture = {
        "id": "1", "file": "images/1.png", "sha256": "0", "width": 64, "height": 64,
        "caption": None, "caption_source": None, "split": "train", "origin": "1.jpg",
    }  # fmt: skip
    write_manifest(path, [picture], STYLE_SET)

    assert read_manifest(path, STYLE_SET) == [picture]


def test_a_set_without_pictures_is_a_manifest_too(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, [], NEGATIVE_SET)

    assert read_manifest(path, NEGATIVE_SET) == []


def test_a_folder_called_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    path = tmp_path / "artist=monet" / "m.parquet"
    write_manifest(path, [row("1")], CAPTIONS)

    assert read_manifest(path, CAPTIONS) == [row("1")]


def test_a_missing_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match="run the stage that makes it first"):
        read_manifest(tmp_path / "m.parquet", SAMPLES)


def test_a_manifest_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, [row("1")], CAPTIONS)
    with pytest.raises(MissingArtifactError, match="other columns"):
        read_manifest(path, SAMPLES)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_a_spoiled_manifest_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(content)
    with pytest.raises(MissingArtifactError, match="run the stage that makes it again"):
        read_manifest(path, SAMPLES)


def test_a_truncated_manifest_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, [row("1")], CAPTIONS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MissingArtifactError, match="run the stage that makes it again"):
        read_manifest(path, CAPTIONS)


@pytest.mark.parametrize("schema", [STYLE_SET, CAPTIONS, NEGATIVE_SET, SAMPLES])
def test_every_set_names_its_rows(schema: pa.Schema) -> None:
    assert schema.field("id") == pa.field("id", pa.string(), nullable=False)


def test_the_file_says_nothing_of_when_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(path, [row("1")], CAPTIONS)
    metadata = pq.read_metadata(path)

    assert set(metadata.metadata or {}) <= {b"ARROW:schema"}
