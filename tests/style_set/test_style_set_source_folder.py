"""What is found in a folder of pictures."""

from pathlib import Path

import pytest

from nsync_pipeline.errors import PictureError
from nsync_pipeline.style_set.source_folder import read_source
from tests.support.picture_files import save


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def test_pictures_with_captions_from_all_three_places(tmp_path: Path) -> None:
    save(tmp_path / "b.jpg", 1)
    save(tmp_path / "a.PNG", 2)
    save(tmp_path / "sub" / "c.webp", 3)
    save(tmp_path / "sub" / "d.png", 4)
    text(tmp_path / "a.txt", "a hill\n")
    text(tmp_path / "metadata.csv", "file_name,text\nb.jpg,a boat\n")
    text(tmp_path / "sub" / "metadata.jsonl", '{"file_name": "c.webp", "text": "a cow"}')
    source = read_source(tmp_path)
    assert [(p.name, p.caption, p.caption_source) for p in source.pictures] == [
        ("a.PNG", "a hill", "txt"),
        ("b.jpg", "a boat", "metadata.csv"),
        ("sub/c.webp", "a cow", "metadata.jsonl"),
        ("sub/d.png", None, None),
    ]
    assert source.pictures[0].caption_file == tmp_path / "a.txt"
    assert source.metadata == (
        tmp_path / "metadata.csv",
        tmp_path / "sub" / "metadata.jsonl",
    )
    assert not source.problems
    assert not source.caption_problems
    assert not source.ignored


def test_hidden_files_are_passed_over_and_others_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1)
    save(tmp_path / ".cache" / "thumbnail.png", 2)
    save(tmp_path / "__MACOSX" / "a.png", 2)
    text(tmp_path / ".DS_Store", "x")
    text(tmp_path / "Thumbs.db", "x")
    text(tmp_path / "README.txt", "where these are from")
    text(tmp_path / "notes.md", "x")
    source = read_source(tmp_path)
    assert [p.name for p in source.pictures] == ["a.png"]
    assert source.ignored == ("README.txt", "notes.md")
    assert not source.problems


def test_pictures_that_cannot_be_read_here_are_not_lost(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1)
    text(tmp_path / "b.heic", "x")
    text(tmp_path / "b.txt", "its caption")
    (problem,) = read_source(tmp_path).problems
    assert str(problem) == "b.heic cannot be read here (.heic): convert it to PNG or JPEG"


def test_a_link_to_a_folder_is_a_problem(tmp_path: Path) -> None:
    save(tmp_path / "pictures" / "a.png", 1)
    save(tmp_path / "elsewhere" / "b.png", 2)
    (tmp_path / "pictures" / "more").symlink_to(tmp_path / "elsewhere")
    (problem,) = read_source(tmp_path / "pictures").problems
    assert problem.name == "more"


@pytest.mark.parametrize("name", ["nothing", "empty", "only_text"])
def test_a_folder_without_pictures(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    text(tmp_path / "only_text" / "README.md", "x")
    expected = {
        "nothing": "is not a folder of pictures",
        "empty": r"holds no pictures \(it is empty\)",
        "only_text": r"holds no pictures \(found only README.md\)",
    }
    with pytest.raises(PictureError, match=expected[name]):
        read_source(tmp_path / name)


def test_a_sidecar_of_two_pictures_is_ambiguous(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", 1)
    save(tmp_path / "a.png", 2)
    text(tmp_path / "a.txt", "a boat")
    (problem,) = read_source(tmp_path).caption_problems
    assert str(problem).startswith("a.txt could be the caption of a.jpg or a.png")


def test_two_pictures_of_one_stem_may_be_captioned_by_metadata(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", 1)
    save(tmp_path / "a.png", 2)
    text(tmp_path / "a.txt", "a boat")
    text(tmp_path / "metadata.csv", "file_name,text\na.jpg,one\na.png,two\n")
    source = read_source(tmp_path)
    assert [p.caption for p in source.pictures] == ["one", "two"]
    assert not source.caption_problems


def test_captions_for_files_that_are_not_there(tmp_path: Path) -> None:
    save(tmp_path / "boat_01.jpg", 1)
    text(tmp_path / "boat_02.txt", "a boat")
    text(
        tmp_path / "metadata.jsonl",
        '{"file_name": "boat_01.jpeg", "text": "a boat"}\n{"file_name": "gone.jpg"}\n',
    )
    assert [str(problem) for problem in read_source(tmp_path).caption_problems] == [
        "boat_02.txt is a caption without its picture (is boat_01.jpg meant?): rename it, bring "
        "the picture, or move the text away",
        "metadata.jsonl, line 1, captions boat_01.jpeg, which is no picture here (is boat_01.jpg "
        "meant?)",
    ]


def test_two_different_captions_of_one_picture(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", 1)
    text(tmp_path / "a.txt", "a boat")
    text(tmp_path / "metadata.csv", "file_name,text\na.jpg,a ship\n")
    (problem,) = read_source(tmp_path).caption_problems
    assert str(problem) == "a.jpg has different captions in metadata.csv and txt: keep one"
    text(tmp_path / "a.txt", "a  ship\n")
    assert not read_source(tmp_path).caption_problems


def test_names_in_decomposed_unicode_are_found(tmp_path: Path) -> None:
    """A Mac writes é as e and an accent; metadata written elsewhere does not."""
    save(tmp_path / "e\u0301te\u0301.jpg", 1)
    text(tmp_path / "metadata.csv", "file_name,text\n\u00e9t\u00e9.jpg,a field\n")
    source = read_source(tmp_path)
    assert [(p.name, p.caption) for p in source.pictures] == [("\u00e9t\u00e9.jpg", "a field")]
    assert not source.problems
