"""Files and folders are whole or not there."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsync_pipeline.files import (
    file_sha256,
    mend,
    read_json,
    replaced,
    sweep,
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


def test_a_folder_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, synced = tmp_path / "set", []

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").resolve().name, folder.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_folder(folder) as written:
        (written / "in").mkdir()
        (written / "in" / "a").write_text("1")
        (written / "b").write_text("2")
    before = [name for name, is_there in synced if not is_there]
    assert {"a", "b", "in"} < set(before)
    assert synced[-1] == (tmp_path.name, True)


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_goes_with_the_next_writing(tmp_path: Path) -> None:
    dead = ended_process()
    (tmp_path / f".a.txt.{dead}.partial").write_text("half")
    (tmp_path / f".a.txt.{os.getpid()}.partial").write_text("of a thread of this process")
    (tmp_path / f".b.txt.{dead}.partial").write_text("of another file")
    (tmp_path / f".set.{dead}.partial").mkdir()
    write_whole(tmp_path / "a.txt", "a")
    with whole_folder(tmp_path / "set") as written:
        (written / "b").write_text("1")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.txt", "set", f".b.txt.{dead}.partial"}


def test_sweeping_leaves_what_living_processes_write(tmp_path: Path) -> None:
    dead, alive = ended_process(), os.getppid()
    deep = tmp_path / "in" / "there"
    deep.mkdir(parents=True)
    for number in (dead, alive):
        (deep / f".a.npy.{number}.partial").write_text("half")
        (deep / f".set.{number}.partial").mkdir()
    (deep / ".hidden.partial").write_text("a person's own")
    sweep(tmp_path)
    left = {path.name for path in deep.iterdir()}
    assert left == {f".a.npy.{alive}.partial", f".set.{alive}.partial", ".hidden.partial"}


@pytest.mark.parametrize("moved", ["out", "in"])
def test_a_folder_that_was_being_replaced_is_there_again(tmp_path: Path, moved: str) -> None:
    """A kill between the two moves leaves what was; one after them what came."""
    folder = tmp_path / "set"
    replaced(folder).mkdir()
    (replaced(folder) / "before").touch()
    if moved == "in":
        folder.mkdir()
    mend(folder)
    assert (folder / "before").exists() == (moved == "out")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udcff", "1" * 5000])
def test_json_that_cannot_be_read_is_a_value_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"."):
        read_json(path)


def test_json_beyond_all_bounds_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsync_pipeline.files.MOST_JSON", 10)
    (tmp_path / "a.json").write_text('"more than ten"')
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_json(tmp_path / "a.json")


def test_a_link_to_a_folder_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").touch()
    (tmp_path / "set").symlink_to(tmp_path / "there")
    for _ in range(2):
        with whole_folder(tmp_path / "set") as written:
            (written / "b").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "there"]
    assert not (tmp_path / "set").is_symlink()
    assert (tmp_path / "there" / "a").exists()
