"""Which files of a person's folder are read, and what is done about the others."""

import gzip
import os
import socket
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsync_pipeline.errors import PictureError
from nsync_pipeline.given_files import given_files, given_sha256, read_given
from nsync_pipeline.style_set.source_folder import MOST_CAPTION, SourceFolder, read_source
from tests.support.picture_files import save

NFC, NFD = "\u00e9", "e\u0301"


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in read_source(folder).problems]


def caption_problems(folder: Path) -> list[str]:
    return [str(problem) for problem in read_source(folder).caption_problems]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "folder" / "a.png", 1)
    return tmp_path / "folder"


def linked(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def listening(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the address of a socket has 108 characters at most
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


UNFIT: dict[str, Callable[[Path], None]] = {
    "out of the folder": linked("/etc/passwd"),
    "by a longer way": linked("../folder/../outside.png"),
    "of a device": linked("/dev/zero"),
    "of itself": linked("b.png"),
    "to nothing": linked("nowhere.png"),
    "a pipe": os.mkfifo,
    "a socket": listening,
}


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.parametrize("name", ["b.png", "b.txt", "metadata.jsonl", "Captions.CSV", "b.caption"])
def test_only_regular_files_of_the_folder_are_read(folder: Path, kind: str, name: str) -> None:
    """What is no picture may be left out; a caption that is lost always stops."""
    save(folder.parent / "outside.png", 2)
    UNFIT[kind](folder / name)
    source = read_source(folder)
    refused = source.problems if name == "b.png" else source.caption_problems
    assert [problem.name for problem in refused] == [name]
    assert [picture.name for picture in source.pictures] == ["a.png"]
    assert not source.metadata


def test_links_that_stay_in_the_folder_are_followed(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "b.png").symlink_to("../a.png")
    assert [picture.name for picture in read_source(folder).pictures] == ["a.png", "sub/b.png"]
    (folder.parent / "link").symlink_to(folder)
    assert len(read_source(folder.parent / "link").pictures) == 2


@pytest.mark.parametrize("name", [b"caf\xe9.jpg", b"caf\xe9.txt", b"\xff/b.png", b"a\x1b[31m.png"])
def test_a_name_that_is_no_text_is_refused_by_name(folder: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    source = read_source(folder)
    (problem,) = source.problems + source.caption_problems
    assert str(problem).isprintable()
    assert "rename it" in str(problem)


def test_names_that_differ_only_in_how_accents_are_written(folder: Path) -> None:
    """Neither is taken for the other, nor its caption."""
    for form in (NFC, NFD):
        save(folder / f"{form}.png", 1)
        (folder / f"{form}.txt").write_text(f"a boat in {form}")
    assert problems(folder) == [
        f"{NFC}.png is the name of 2 files, in two ways to write accents: rename one"
    ]
    assert caption_problems(folder) == [
        f"{NFC}.txt is the name of 2 files, in two ways to write accents: rename one"
    ]


def test_two_folders_of_one_name(folder: Path) -> None:
    for form in (NFC, NFD):
        save(folder / form / "b.png", 1)
    assert problems(folder)[0].startswith(f"{NFC}/b.png is the name of 2 files,")


def test_a_folder_that_cannot_be_listed_is_not_empty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def scandir(path: str) -> object:
        if Path(path) == refused:
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused = folder
    with pytest.raises(PictureError, match="cannot be listed: Permission denied"):
        read_source(folder)
    (folder / "sub").mkdir()
    refused = folder / "sub"
    assert problems(folder) == ["sub cannot be listed: Permission denied"]
    (folder / "a.png").unlink()
    assert problems(folder) == ["sub cannot be listed: Permission denied"]


def test_how_much_is_read_is_bounded(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PictureError, match=r"has more than 1 MiB"):
        read_given(tmp_path / "a.txt", 2**20)
    with pytest.raises(PictureError, match=r"has more than 1 MiB"):
        given_sha256(tmp_path / "a.txt", 2**20)
    os.mkfifo(tmp_path / "b.txt")
    for read in (read_given, given_sha256):
        with pytest.raises(PictureError, match="no regular file"):
            read(tmp_path / "b.txt", 2**20)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(min_size=1, max_size=8), max_size=5))
def test_every_file_is_taken_or_refused(names: list[bytes]) -> None:
    """Whatever it is called: none is lost, and what is taken can be written down."""
    with tempfile.TemporaryDirectory() as folder:
        for name in {name.replace(b"/", b"_").replace(b"\0", b"_") for name in names}:
            if name not in (b".", b".."):
                Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"")
        listed = given_files(Path(folder))
        there = [path.name for path in Path(folder).iterdir()]
        hidden = [name for name in there if name.startswith(".") and _is_utf8(name)]
        assert {path.name for path in listed.files.values()} <= set(there)
        assert len(listed.files) + len(listed.refused) <= len(there)
        assert bool(listed.files or listed.refused) or len(hidden) == len(there)
        for listed_name in (*listed.files, *listed.refused):
            listed_name.encode("utf-8")


def _is_utf8(name: str) -> bool:
    return name == name.encode("utf-8", "replace").decode()


BLANK = [
    ("a.txt", " \n\u200b\ufeff\n"),
    ("a.txt", "-"),
    ("a.txt", "... , ***\n"),
    ("a.caption", ""),
    ("metadata.jsonl", '{"file_name": "a.png", "text": " "}\n'),
    ("metadata.jsonl", '{"file_name": "a.png", "text": "\u2014 \u3002"}\n'),
    ("captions.jsonl", '{"file_name": "a.png", "text": null}\n'),
    ("metadata.csv", "file_name,text\na.png,\n"),
    ("metadata.csv", 'file_name,text\na.png,"(=)"\n'),
]
"""Nothing, white space, signs alone."""


@pytest.mark.parametrize(("name", "text"), BLANK)
def test_a_blank_caption_is_none(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    source = read_source(folder)
    assert not source.caption_problems
    assert [(p.caption, p.caption_source, p.caption_file) for p in source.pictures] == [(None,) * 3]


NOT_TEXT = ["a\x00b", "a\x1b[31mb", "a\x85b", "a\x7fb", "a\ufffdb"]


@pytest.mark.parametrize("text", [*(t.encode() for t in NOT_TEXT), "a boat".encode("utf-16-le")])
def test_text_that_is_no_text_is_refused(folder: Path, text: bytes) -> None:
    (folder / "a.txt").write_bytes(text)
    assert len(caption_problems(folder)) == 1
    (folder / "a.txt").unlink()
    (folder / "metadata.csv").write_bytes(b"file_name,text\na.png," + text + b"\n")
    assert len(caption_problems(folder)) == 1


@pytest.mark.parametrize("escaped", [r"\ud83d", r"\u0000", r"\u001b[2J", r"\uffff"])
def test_text_that_is_no_text_is_refused_where_it_is_escaped(folder: Path, escaped: str) -> None:
    (folder / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "text": "a {escaped}"}}')
    assert caption_problems(folder)[0].startswith("metadata.jsonl line 1 holds U+")


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "a.png", "text": ' + "[" * 100_000,
        '{"file_name": "a.png", "text": "b", "n": ' + "1" * 5000 + "}",
        '{"file_name": "a.png", "text": "a", "text": "b"}',
        '{"file_name": "a.png", "text": "a", "Text ": "b"}',
        f'{{"file_name": "a.png", "text": "{"a" * (MOST_CAPTION + 1)}"}}',
    ],
    ids=["deep", "huge number", "two texts", "two texts by another name", "long"],
)
def test_lines_that_cannot_be_told_are_one_line(folder: Path, line: str) -> None:
    (folder / "metadata.jsonl").write_text(line)
    (problem,) = caption_problems(folder)
    assert problem.startswith("metadata.jsonl line 1")
    assert len(problem) < 300


READ = {
    "a.caption": "a boat",
    "A.CAPTION": None,
    "a.TXT": "a boat",
    "a.png.txt": "a boat",
    "a.png.caption": "a boat",
    "captions.csv": "file_name,text\na.png,a boat\n",
    "Metadata.CSV": "file_name, text\na.png, a boat\n",
    "METADATA.JSONL": '{"File_Name": "a.png", "Text": "a boat"}',
    "metadata.csv": '"file_name", "text"\n"a.png", "a boat"\n',
}


@pytest.mark.parametrize("name", READ)
def test_captions_by_other_known_names_are_read(folder: Path, name: str) -> None:
    (folder / name).write_text(READ[name] or "a boat")
    source = read_source(folder)
    if READ[name] is None:
        assert "(is a.png meant?)" in str(source.caption_problems[0])
        return
    assert source.caption_problems == ()
    assert [picture.caption for picture in source.pictures] == ["a boat"]


@pytest.mark.parametrize(
    "name", ["metadata.json", "captions.json", "metadata.parquet", "Captions.TSV", "meta_cap.json"]
)
def test_captions_of_a_kind_that_is_not_read_are_said(folder: Path, name: str) -> None:
    (folder / name).write_text("[]")
    assert caption_problems(folder)[0].startswith(f"{name} seems to hold captions")


@pytest.mark.parametrize("name", ["a.json", "a.png.json", "a.cap", "a.tags", "a.text", "a.docx"])
def test_what_is_called_as_a_picture_without_a_caption_is_said(folder: Path, name: str) -> None:
    (folder / name).write_text("a boat")
    assert caption_problems(folder)[0].startswith(f"{name} seems to be the caption of a.png")
    (folder / "a.txt").write_text("a boat")
    assert not caption_problems(folder)


@pytest.mark.parametrize("name", ["data.csv", "train.jsonl", "0_captions.tsv", "annotations.json"])
def test_a_table_that_names_pictures_without_a_caption_is_said(folder: Path, name: str) -> None:
    (folder / name).write_text("image,description\nb.png,a hill\n")
    assert not caption_problems(folder)
    (folder / name).write_text("image,description\na.png,a boat\n")
    assert caption_problems(folder)[0].startswith(f"{name} seems to hold captions")
    (folder / "a.txt").write_text("a boat")
    assert not caption_problems(folder)


@pytest.mark.parametrize(
    "name",
    ["a.txt.bak", "a.caption.old", "a.png.txt~", "metadata.jsonl.bak", "metadata.csv~",
     "captions.jsonl.gz", "prompts.CSV.1", "data.csv.orig"],
)  # fmt: skip
def test_a_copy_of_captions_is_said_where_there_are_none(folder: Path, name: str) -> None:
    (folder / name).write_text("file_name,text\na.png,a boat\n")
    assert caption_problems(folder)[0].startswith(f"{name} seems to ")
    (folder / "a.txt").write_text("a boat")
    assert not caption_problems(folder)


@pytest.mark.parametrize("kind", ["xlsx", "ods", "xls", "parquet", "csv.gz"])
def test_a_packed_table_that_may_name_pictures_without_a_caption_is_said(
    folder: Path, kind: str
) -> None:
    """A zip and an old Excel file are searched; what is packed otherwise may hold any name."""

    def write(name: str) -> None:
        path = folder / f"stock.{kind}"
        if kind in ("xlsx", "ods"):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
                packed.writestr("sheet.xml", f"<t>{name}</t>" * 20)
        else:
            content = {
                "xls": b"\xd0\xcf\x11\xe0" + name.encode("utf-16-le"),
                "parquet": b"PAR1\x00PAR1",
                "csv.gz": gzip.compress(name.encode()),
            }
            path.write_bytes(content[kind])

    write("b.png")
    assert bool(caption_problems(folder)) == (kind in ("parquet", "csv.gz"))
    write("a.png")
    assert caption_problems(folder)[0].startswith(f"stock.{kind} seems to hold captions")
    (folder / "a.txt").write_text("a boat")
    assert not caption_problems(folder)


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [("folder/a.png", "a.png"), ("A.PNG", "a.png"), ("a.jpg", "a.png"), (r"C:\x\a.png", "a.png"),
     ("../folder/a.png", "a.png")],
)  # fmt: skip
def test_captions_that_cannot_be_matched_name_what_may_be_meant(
    folder: Path, given_name: str, meant: str
) -> None:
    (folder / "metadata.csv").write_text(f"file_name,text\n{given_name},a boat\n")
    (problem,) = caption_problems(folder)
    assert problem.endswith(f"is no picture here (is {meant} meant?)")


def test_the_captions_of_a_refused_picture_are_no_problem_of_their_own(folder: Path) -> None:
    (folder / "b.png").symlink_to("/dev/zero")
    (folder / "b.txt").write_text("a boat")
    (folder / "metadata.csv").write_text("file_name,text\nb.png,a boat\na.png,a hill\n")
    source: SourceFolder = read_source(folder)
    assert [problem.name for problem in source.problems] == ["b.png"]
    assert source.caption_problems == ()


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=60), st.sampled_from(["a.txt", "metadata.jsonl", "metadata.csv"]))
def test_any_bytes_are_a_caption_or_a_reason(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.png").touch()
        for before in (b"", b'{"file_name": "a.png", "text": "', b"file_name,text\na.png,"):
            Path(folder, name).write_bytes(before + content)
            source = read_source(Path(folder))
            (picture,) = source.pictures
            assert all(str(problem).isprintable() for problem in source.caption_problems)
            if picture.caption is not None:
                assert picture.caption == " ".join(picture.caption.split()) != ""
                picture.caption.encode("utf-8")
