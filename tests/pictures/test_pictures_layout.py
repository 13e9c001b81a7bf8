"""Where pictures lie: the same ones in a folder and in shards, and shards that change alone."""

import random
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.PngImagePlugin import PngImageFile

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.pictures import layout
from nsync_pipeline.pictures.layout import (
    FEW,
    StoredFile,
    by_shard,
    picture_file,
    picture_sha256,
    store_pictures,
)
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    manifest_sha256,
    read_manifest,
    write_manifest,
)
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.workspace import MANIFEST_FILE
from tests.support.picture_files import save

IDS = st.text("0123456789abcdef", min_size=16, max_size=16)
ENDINGS = st.sampled_from([".png", ".JPG", ".webp"])
FILES = st.dictionaries(IDS, st.tuples(ENDINGS, st.binary(max_size=40)), min_size=2, max_size=9)


def written(root: Path, content: Mapping[str, tuple[str, bytes]]) -> dict[str, Path]:
    """Files by id, under names that are not their ids."""
    root.mkdir(parents=True)
    files = {}
    for number, (one, (ending, data)) in enumerate(content.items()):
        files[one] = root / f"picture {number}{ending}"
        files[one].write_bytes(data)
    return files


def stored(
    folder: Path, files: Mapping[str, Path], few: int = FEW, workers: int = 1
) -> dict[str, StoredFile]:
    """The set with its manifest, where so many are few."""
    folder.mkdir(parents=True)
    with patch.object(layout, "FEW", few), patch.object(layout, "usable_cores", lambda: workers):
        found = store_pictures(folder, files)
        rows = (caption_row(one, found[one].sha256) for one in files)
        write_manifest(folder / MANIFEST_FILE, rows, CAPTIONS)
    return found


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` by its relative name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def caption_row(picture: str, caption: str) -> dict[str, Any]:
    return {
        "id": picture, "caption": caption, "raw_caption": caption, "source": "txt",
        "removed_words": [], "lost": None,
    }  # fmt: skip


def content_of(path: Path) -> bytes:
    found = picture_file(path)
    return found.read_bytes() if isinstance(found, Path) else found.getvalue()


@settings(max_examples=15, deadline=None)
@given(content=FILES, workers=st.integers(1, 4), seed=st.integers())
def test_shards_hold_what_a_folder_holds_however_many_write_them(
    tmp_path_factory: pytest.TempPathFactory,
    content: dict[str, tuple[str, bytes]],
    workers: int,
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("sets")
    files = written(root / "source", content)
    shuffled = list(files.items())
    random.Random(seed).shuffle(shuffled)

    folder = stored(root / "folder", files)
    shards = stored(root / "shards", files, few=1, workers=workers)
    again = stored(root / "again", dict(shuffled), few=1)

    for one, (ending, data) in content.items():
        name = f"{one}{ending.lower()}"
        assert folder[one].file == f"images/{name}"
        assert shards[one].file == f"images/{one[:2]}.zip/{name}"
        assert shards[one].sha256 == folder[one].sha256
        for place, row in ((root / "folder", folder[one]), (root / "shards", shards[one])):
            assert content_of(place / row.file) == data
            assert picture_sha256(place / row.file) == row.sha256
    rows = read_manifest(root / "folder" / MANIFEST_FILE, CAPTIONS)
    assert [row["id"] for row in rows] == sorted(content)
    assert read_manifest(root / "shards" / MANIFEST_FILE, CAPTIONS) == rows
    assert again == shards
    assert folder_bytes(root / "again") == folder_bytes(root / "shards")
    shutil.rmtree(root)


@settings(max_examples=10, deadline=None)
@given(content=FILES, new=st.tuples(IDS, ENDINGS, st.binary(min_size=41, max_size=60)))
def test_a_picture_more_changes_its_own_shard_and_no_other(
    tmp_path_factory: pytest.TempPathFactory,
    content: dict[str, tuple[str, bytes]],
    new: tuple[str, str, bytes],
) -> None:
    one, ending, data = new
    root = tmp_path_factory.mktemp("sets")
    content.pop(one, None)
    stored(root / "before", written(root / "source", content), few=0)
    more = content | {one: (ending, data)}
    stored(root / "after", written(root / "more", more), few=0)

    before, after = folder_bytes(root / "before"), folder_bytes(root / "after")
    changed = {name for name, content in after.items() if before.get(name) != content}
    assert changed == {f"images/{one[:2]}.zip", f"manifest.parquet/{one[:2]}.parquet"}
    assert before.keys() <= after.keys()
    shutil.rmtree(root)


def test_so_many_as_are_few_lie_in_a_folder_and_one_more_in_shards() -> None:
    ids = [f"{number * 7919 % 65536:04x}" for number in range(FEW + 1)]
    assert by_shard(ids[:FEW]) is None
    shards = by_shard(ids)
    assert shards is not None
    assert len(shards) <= 256
    assert [one for members in shards.values() for one in members] == sorted(ids)


def test_a_set_has_at_most_as_many_files_as_a_folder_of_few(tmp_path: Path) -> None:
    ids = [f"{number % 256:02x}{number}" for number in range(FEW + 1)]
    files = written(tmp_path / "source", {ids[0]: (".png", b"one")})
    store_pictures(tmp_path / "set", dict.fromkeys(ids, files[ids[0]]))

    assert 2 * len(folder_bytes(tmp_path / "set")) == FEW  # and as many parts of the manifest


def a_shard(root: Path) -> tuple[Path, Path]:
    """An archive of three pictures, and the path of one of them."""
    files = {f"ab{number}": save(root / f"{number}.png", number) for number in range(3)}
    rows = stored(root / "set", files, few=0)
    return root / "set/images/ab.zip", root / "set" / rows["ab1"].file


def test_any_program_for_archives_opens_a_shard(tmp_path: Path) -> None:
    shard, _ = a_shard(tmp_path)
    with zipfile.ZipFile(shard) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["ab0.png", "ab1.png", "ab2.png"]
        assert archive.read("ab2.png") == (tmp_path / "2.png").read_bytes()


def test_a_picture_of_a_shard_is_opened_as_one_of_a_folder(tmp_path: Path) -> None:
    _, path = a_shard(tmp_path)
    assert open_picture(path).tobytes() == open_picture(tmp_path / "1.png").tobytes()


@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, 0.9, -1, -30])
def test_a_shard_that_is_cut_off_is_said_in_one_line(tmp_path: Path, kept: float) -> None:
    shard, path = a_shard(tmp_path)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(MissingArtifactError, match=r"ab1\.png is not there or is damaged"):
        open_picture(path)
    with pytest.raises(MissingArtifactError, match="run the stage that makes it again"):
        picture_sha256(path)


@pytest.fixture(scope="module")
def whole_shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    shard, path = a_shard(tmp_path_factory.mktemp("shard"))
    return shard, path, shard.read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_spoiled_shard_gives_the_picture_as_it_was_or_one_line(
    whole_shard: tuple[Path, Path, bytes], data: st.DataObject
) -> None:
    shard, path, whole = whole_shard
    shard.write_bytes(whole)
    layout._held.cache_clear()
    before = content_of(path)
    spoiled = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        # The list at the end is a small part, and decides where everything is.
        place = data.draw(st.integers(-250, -1) | st.integers(0, len(whole) - 1))
        spoiled[place] = data.draw(st.integers(0, 255))
    shard.write_bytes(spoiled)
    layout._held.cache_clear()  # within one tick of the disk's clock it looks the same
    with suppress(MissingArtifactError):  # which is one line: what, where, what to do
        assert content_of(path) == before


def test_a_picture_that_its_shard_lacks_and_a_lost_shard_are_said(tmp_path: Path) -> None:
    shard, path = a_shard(tmp_path)
    with pytest.raises(MissingArtifactError, match=r"ab\.zip does not hold it"):
        open_picture(path.with_name("ab7.png"))
    shard.unlink()
    with pytest.raises(MissingArtifactError, match="is not there or is damaged"):
        open_picture(path)


def test_a_shard_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    shard, path = a_shard(tmp_path)
    open_picture(path)
    other = stored(tmp_path / "other", {"ab1": save(tmp_path / "9.png", 9)}, few=0)
    (tmp_path / "other" / other["ab1"].file).parent.replace(shard)
    assert open_picture(path).tobytes() == open_picture(tmp_path / "9.png").tobytes()


def test_a_folder_that_is_named_like_an_archive_is_a_folder(tmp_path: Path) -> None:
    picture = save(tmp_path / "holiday.zip" / "boat.png", 3)
    assert open_picture(picture).tobytes() == open_picture(save(tmp_path / "b.png", 3)).tobytes()


def test_a_manifest_in_parts_has_a_digest_and_a_lost_or_spoiled_part_is_named(
    tmp_path: Path,
) -> None:
    manifest = tmp_path / MANIFEST_FILE
    with patch.object(layout, "FEW", 1):
        write_manifest(manifest, [caption_row(f"{n}{n}", "a boat") for n in range(3)], CAPTIONS)
        before = manifest_sha256(manifest)
        write_manifest(manifest, [caption_row(f"{n}{n}", "a boot") for n in range(3)], CAPTIONS)
    assert manifest_sha256(manifest) != before
    (manifest / "11.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingArtifactError, match=r"11\.parquet is damaged"):
        read_manifest(manifest, CAPTIONS)
    for part in manifest.iterdir():
        part.unlink()
    with pytest.raises(MissingArtifactError, match=r"manifest\.parquet is not there"):
        read_manifest(manifest, CAPTIONS)


def test_memory_that_runs_out_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who believed it would have a good picture drawn again."""

    def fails(image: PngImageFile) -> None:
        raise MemoryError

    picture = save(tmp_path / "a.png", 1)
    monkeypatch.setattr(PngImageFile, "load", fails)
    with pytest.raises(MemoryError):
        open_picture(picture)
