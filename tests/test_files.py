"""Files and folders are whole or not there."""

import hashlib
import os
from pathlib import Path

import pytest

from nsync_pipeline.files import (
    file_sha256,
    whole_file,
    whole_folder,
    write_whole,
)


def test_a_file_is_there_once_it_is_written_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as partial:
        partial.write_text("a")
        assert not path.exists()
        assert partial.parent == path.parent
    assert path.read_text() == "a"
    assert list(path.parent.iterdir()) == [path]


def test_where_writing_fails_the_file_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "before")
    with pytest.raises(TypeError), whole_file(path) as partial:
        print(partial.write_text("half") + "a number and a text")  # type: ignore[operator]
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "a.bin", []

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").resolve(), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(path, b"\x00\r\n")
    (first, was_there), (second, is_there) = synced
    assert first.name.endswith(".partial")
    assert not was_there
    assert (second, is_there) == (tmp_path, True)
    assert path.read_bytes() == b"\x00\r\n"


def test_a_folder_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with whole_folder(folder) as written:
        (written / "a").write_text("1")
    with pytest.raises(FileNotFoundError), whole_folder(folder) as written:
        (written / "not there" / "b").write_text("2")
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "a"]
    with whole_folder(folder) as written:
        (written / "b").write_text("2")
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "a")
    assert file_sha256(tmp_path / "a.txt") == hashlib.sha256(b"a").hexdigest()
