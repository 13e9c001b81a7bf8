"""``nsync add-style``: what it brings in, what it refuses, and that it loses nothing."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsync_pipeline.add_style import AddedStyle, NewStyle, add_style
from nsync_pipeline.errors import (
    CaptionError,
    ParamsError,
    PictureError,
    UserError,
    WorkspaceBusyError,
)
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.params import read_params
from nsync_pipeline.style_set.source_folder import read_source
from nsync_pipeline.workspace import Workspace
from tests.support.picture_files import save

SHIPPED = Path(__file__).parent.parent / "params.yaml"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "workspace"
    root.mkdir()
    shutil.copyfile(SHIPPED, root / "params.yaml")
    return Workspace(root)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures: two captioned in metadata, one in a sidecar in a subfolder, one not at all."""
    folder = tmp_path / "my pictures"
    for seed, name in enumerate(["a.png", "b.jpg", "sub/c.png", "sub/d.png"]):
        save(folder / name, seed)
    (folder / "metadata.csv").write_text("file_name,text\na.png,a boat\nb.jpg,a hill\n")
    (folder / "sub" / "c.txt").write_text("a cow")
    (folder / "notes.md").write_text("not for others")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def add(workspace: Workspace, source: Path | str, name: str = "hills", **asked: Any) -> AddedStyle:
    return add_style(workspace, NewStyle(name, str(source), **asked), lambda *told: None)


def captioned(workspace: Workspace, pictures: Path, **asked: Any) -> AddedStyle:
    return add(workspace, pictures, captioned_only=True, **asked)


def test_captioned_pictures_come_with_their_captions(workspace: Workspace, pictures: Path) -> None:
    before = tree(pictures)
    added = captioned(workspace, pictures, placeholder="hls", generic_style="illustration")
    brought = ["a.png", "b.jpg", "metadata.csv", "sub/c.png", "sub/c.txt"]
    assert tree(workspace.source("hills")) == {name: before[name] for name in brought}
    assert (added.folder, added.is_folder, added.copied) == (workspace.source("hills"), True, 5)
    assert added.figures["without_caption_are"] == "sub/d.png"
    style = read_params(workspace.params_file).style("hills")
    assert (style.source, style.placeholder, style.generic_style) == (
        "folder",
        "hls",
        "illustration",
    )
    assert tree(pictures) == before


def test_uncaptioned_pictures_are_named_before_anything_is_written(
    workspace: Workspace, pictures: Path
) -> None:
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(f"{_without_captioning(text)}captioning: {{model: null}}\n")
    before = tree(workspace.root)
    with pytest.raises(CaptionError, match=r"1 of 4 .*sub/d\.png.*--captioned-only"):
        add(workspace, pictures)
    after = tree(workspace.root)
    assert {n: c for n, c in after.items() if not n.startswith(".nsync/")} == before


def _without_captioning(text: str) -> str:
    """The text of params.yaml without this section."""
    start = text.index("captioning:")
    return text[:start] + text[text.index("negative_set:") :]


def test_uncaptioned_pictures_come_in_where_a_model_describes_them(
    workspace: Workspace, pictures: Path
) -> None:
    added = add(workspace, pictures)
    model = read_params(workspace.params_file).captioning.model
    assert model is not None
    assert added.described_by == model.name
    assert (workspace.source("hills") / "sub" / "d.png").is_file()
    assert captioned(workspace, pictures, name="fewer").described_by is None


def test_a_bad_picture_is_named_before_anything_is_written(
    workspace: Workspace, pictures: Path
) -> None:
    (pictures / "a.png").write_bytes(b"")
    with pytest.raises(PictureError, match=r"a\.png is empty"):
        captioned(workspace, pictures)
    assert not workspace.source("hills").exists()
    assert workspace.params_file.read_bytes() == SHIPPED.read_bytes()


@pytest.mark.parametrize(
    ("name", "hint"), [("Claude-Monet", "claude_monet"), ("a.b", "a_b"), ("_x", "x"), ("ü", None)]
)
def test_a_name_that_dvc_or_a_folder_cannot_have(
    workspace: Workspace, pictures: Path, name: str, hint: str | None
) -> None:
    with pytest.raises(ParamsError, match="cannot be the name of a style") as caught:
        add(workspace, pictures, name)
    assert str(caught.value).endswith("not _ first" if hint is None else f"for example {hint}")


def test_a_style_that_is_there_is_refused(workspace: Workspace, pictures: Path) -> None:
    captioned(workspace, pictures)
    before = tree(workspace.source("hills"))
    with pytest.raises(PictureError, match=r"there already, with 5 files .*--update"):
        captioned(workspace, pictures)
    with pytest.raises(ParamsError, match="is drawn"):
        captioned(workspace, pictures, name="woodblock")
    assert tree(workspace.source("hills")) == before


def test_an_update_adds_what_is_new(workspace: Workspace, pictures: Path) -> None:
    captioned(workspace, pictures)
    params = workspace.params_file.read_bytes()
    save(pictures / "e.png", 9)
    with (pictures / "metadata.csv").open("a") as metadata:
        metadata.write("e.png,a mill\n")
    added = captioned(workspace, pictures, update=True)
    assert added.copied == 2  # e.png and the metadata that now speaks of it
    brought = tree(workspace.source("hills"))
    assert brought["metadata.csv"] == (pictures / "metadata.csv").read_bytes()
    assert sorted(brought) == ["a.png", "b.jpg", "e.png", "metadata.csv", "sub/c.png", "sub/c.txt"]
    assert workspace.params_file.read_bytes() == params


def test_an_update_overwrites_no_picture_and_no_caption(
    workspace: Workspace, pictures: Path
) -> None:
    captioned(workspace, pictures)
    before = tree(workspace.source("hills"))
    save(pictures / "a.png", 77)
    with pytest.raises(PictureError, match=r"other content:\n  - a\.png\nNone of them"):
        captioned(workspace, pictures, update=True)
    shutil.copyfile(workspace.source("hills") / "a.png", pictures / "a.png")
    (pictures / "metadata.csv").write_text("file_name,text\na.png,another boat\nb.jpg,a hill\n")
    with pytest.raises(PictureError, match=r"other content:\n  - metadata\.csv"):
        captioned(workspace, pictures, update=True)
    assert tree(workspace.source("hills")) == before


def test_an_update_of_nothing_is_a_mistyped_name(workspace: Workspace, pictures: Path) -> None:
    with pytest.raises(ParamsError, match="no style 'hils' to update"):
        captioned(workspace, pictures, name="hils", update=True)


def test_pictures_that_dvc_has_are_not_replaced(workspace: Workspace, pictures: Path) -> None:
    captioned(workspace, pictures)
    shutil.rmtree(workspace.source("hills"))
    workspace.source("hills").with_name("hills.dvc").touch()
    with pytest.raises(PictureError, match=r"dvc pull hills\.dvc"):
        captioned(workspace, pictures)


def test_pictures_put_there_by_hand_are_taken_as_they_are(
    workspace: Workspace, pictures: Path
) -> None:
    (pictures / "sub" / "d.txt").write_text("a mill")
    shutil.copytree(pictures, workspace.source("hills"))
    added = add(workspace, workspace.source("hills"))
    assert added.copied == 0
    assert tree(workspace.source("hills")) == tree(pictures)
    assert read_params(workspace.params_file).style("hills").source == "folder"


UNFIT: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link out": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "no picture": lambda path: path.write_text("no picture"),
    "empty": lambda path: path.touch(),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_was_refused_is_not_brought_in(
    workspace: Workspace, pictures: Path, kind: str
) -> None:
    """Neither it nor what is said of it: the stage takes what was brought in as it is."""
    _skip_bad_pictures(workspace)
    UNFIT[kind](pictures / "bad.png")
    UNFIT[kind](pictures / "worse.png")
    (pictures / "worse.txt").write_text("a mill")
    with (pictures / "metadata.csv").open("a") as metadata:
        metadata.write("bad.png,a mill\n")
    added = captioned(workspace, pictures)
    brought = tree(workspace.source("hills"))
    assert sorted(brought) == ["a.png", "b.jpg", "metadata.csv", "sub/c.png", "sub/c.txt"]
    assert brought["metadata.csv"] == b"file_name,text\na.png,a boat\nb.jpg,a hill\n"
    assert added.figures["bad_files"] == 2
    assert not read_source(workspace.source("hills")).problems


def test_a_bad_picture_without_a_caption_needs_no_caption(
    workspace: Workspace, pictures: Path
) -> None:
    text = _without_captioning(_skip_bad_pictures(workspace))
    workspace.params_file.write_text(f"{text}captioning: {{model: null}}\n")
    (pictures / "sub" / "d.png").write_bytes(b"")
    assert add(workspace, pictures).figures["bad_files_are"] == "sub/d.png is empty (0 bytes)"


def _skip_bad_pictures(workspace: Workspace) -> str:
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(text.replace("bad_picture: error", "bad_picture: skip"))
    return workspace.params_file.read_text()


def test_a_name_that_is_no_text_leaves_nothing_behind(workspace: Workspace, pictures: Path) -> None:
    shutil.copyfile(pictures / "a.png", os.fsencode(pictures) + b"/caf\xe9.png")
    with pytest.raises(
        PictureError, match=r"caf\\xe9\.png has a name that is not UTF-8: rename it"
    ):
        captioned(workspace, pictures)
    assert not workspace.source("hills").exists()
    assert workspace.params_file.read_bytes() == SHIPPED.read_bytes()


def test_what_cannot_be_versioned_stops_also_where_it_was_put_by_hand(
    workspace: Workspace, pictures: Path
) -> None:
    _skip_bad_pictures(workspace)
    before = workspace.params_file.read_bytes()
    shutil.copytree(pictures, workspace.source("hills"))
    (workspace.source("hills") / "e.png").symlink_to("/etc/passwd")
    with pytest.raises(
        PictureError, match=r"(?s)cannot be versioned:.*e\.png is a link that leads"
    ):
        captioned(workspace, workspace.source("hills"))
    assert workspace.params_file.read_bytes() == before


def test_a_full_disk_leaves_nothing_half_done(
    workspace: Workspace, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[object] = []

    def copy(source: object, target: object) -> None:
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        copied.append(target)

    monkeypatch.setattr("nsync_pipeline.style_set.source_copy.shutil.copyfile", copy)
    with pytest.raises(UserError, match="The disk is full"):
        captioned(workspace, pictures)
    assert list((workspace.root / "sources").iterdir()) == []
    assert workspace.params_file.read_bytes() == SHIPPED.read_bytes()


KILLED_WHILE_COPYING = """
import os, shutil, signal, sys
from pathlib import Path
from nsync_pipeline.add_style import NewStyle, add_style
from nsync_pipeline.workspace import Workspace

copy, done = shutil.copyfile, []

def killed(source, target):
    if len(done) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(copy(source, target))

shutil.copyfile = killed
add_style(Workspace(Path(sys.argv[1])), NewStyle("hills", sys.argv[2], captioned_only=True), print)
"""


def test_a_killed_call_is_finished_by_the_same_call(workspace: Workspace, pictures: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_COPYING, str(workspace.root), str(pictures), "3"],
        capture_output=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert not workspace.source("hills").exists()
    added = captioned(workspace, pictures)
    assert added.copied == 5
    assert [path.name for path in (workspace.root / "sources").iterdir()] == ["hills"]


def test_a_call_that_ended_before_params_yaml_was_written_can_be_repeated(
    workspace: Workspace, pictures: Path
) -> None:
    captioned(workspace, pictures)
    shutil.copyfile(SHIPPED, workspace.params_file)
    assert captioned(workspace, pictures).copied == 0
    assert read_params(workspace.params_file).style("hills").source == "folder"


def test_two_at_once(workspace: Workspace, pictures: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from nsync_pipeline.graph.locks import sole_writer\n"
        "with sole_writer(Path(sys.argv[1]), Path('params.yaml')):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(workspace.lock("params"))],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceBusyError, match=str(other.pid)):
            captioned(workspace, pictures)
    finally:
        other.kill()
        other.wait()
    with sole_writer(workspace.lock("params"), workspace.params_file):
        pass  # the lock went with its process


def test_a_drawn_style(workspace: Workspace) -> None:
    added = add(workspace, "sketchbook:mosaic", "tiles", pictures=40)
    assert (added.is_folder, added.figures) == (False, {"pictures": 40})
    assert sorted(tree(workspace.source("tiles"))) == ["README.md"]
    style = read_params(workspace.params_file).style("tiles")
    assert (style.source, style.pictures) == ("sketchbook:mosaic", 40)


@pytest.mark.parametrize(
    ("source", "asked", "said"),
    [
        ("sketchbook:mosaic", {}, "--pictures N"),
        ("sketchbook:oil", {"pictures": 4}, "its held-out styles are"),
        ("sketchbook:mosaic", {"pictures": 4, "update": True}, "there is no folder"),
        ("sketchbook:mosaic", {"pictures": 4, "placeholder": "x" * 65}, "placeholder"),
    ],
)
def test_a_drawn_style_that_cannot_be(
    workspace: Workspace, source: str, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ParamsError, match=said):
        add(workspace, source, "tiles", **asked)
    assert not workspace.source("tiles").exists()
    assert workspace.params_file.read_bytes() == SHIPPED.read_bytes()


@pytest.mark.parametrize(
    "words",
    [{"known_as": "a\x1b[2J"}, {"placeholder": "\ud800"}, {"style_words": ("b", "a\x00")}],
)
def test_words_that_are_no_text_are_named(workspace: Workspace, words: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match=r"holds U\+[0-9A-F]{4} in line 1, which is no text"):
        add(workspace, "sketchbook:mosaic", "tiles", pictures=3, **words)
    assert workspace.params_file.read_bytes() == SHIPPED.read_bytes()


def test_a_mistyped_folder_is_guessed(workspace: Workspace, pictures: Path) -> None:
    with pytest.raises(PictureError, match=r"is no folder \(is .*my pictures meant\?\)"):
        add(workspace, pictures.with_name("my picture"))


def test_a_number_of_pictures_is_for_drawn_styles_only(
    workspace: Workspace, pictures: Path
) -> None:
    with pytest.raises(ParamsError, match="goes only with"):
        add(workspace, pictures, pictures=3)


def test_bad_files_may_come_along_and_are_left_out_by_name(
    workspace: Workspace, pictures: Path
) -> None:
    (pictures / "a.png").write_bytes(b"")
    added = add(workspace, pictures, exclude_bad=True)
    assert (added.figures["pictures"], added.figures["bad_files_are"]) == (
        3,
        "a.png is empty (0 bytes)",
    )
    assert read_params(workspace.params_file).style("hills").excluded == ("a.png",)
    (pictures / "later.png").write_bytes(b"no picture")
    add(workspace, pictures, update=True, exclude_bad=True)
    assert read_params(workspace.params_file).style("hills").excluded == ("a.png", "later.png")
    assert (workspace.source("hills") / "later.png").is_file()
