"""What an artefact says of itself."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nsync_pipeline import __version__
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.graph.made import FileHashes, describe, read_made, require_whole
from nsync_pipeline.graph.run import Asked, run_stage
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.stage import Preview, StageResult
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import SMALL_PARAMS, Fakes


@pytest.fixture
def folder(fakes: Fakes, workspace: Workspace) -> Path:
    """A style set, as a run made it."""
    run_stage(workspace, Asked("style_set", "ink"))
    return workspace.style_set("ink")


def check(folder: Path, tmp_path: Path) -> None:
    made = read_made(folder)
    assert made is not None
    require_whole(folder, made, FileHashes(tmp_path / "hashes"))


def test_it_says_by_what_and_from_what_it_was_made(folder: Path) -> None:
    content = json.loads((folder / "made.json").read_text())
    assert content["stage"] == "style_set"
    assert (content["style"], content["variant"], content["training_seed"]) == ("ink", None, None)
    assert (content["recipe"], content["engine"]) == (STAGES["style_set"].recipe, __version__)
    assert content["settings"]["style"]["pictures"] == 8
    assert list(content["inputs"]) == ["sources/ink"]
    assert content["figures"] == {"inputs": 1, "verdict": "none"}
    assert content["previews"] == [{"title": "a square", "file": "preview-1.jpg"}]
    assert (folder / "preview-1.jpg").read_bytes().startswith(b"\xff\xd8")


def test_two_workspaces_get_the_same_bytes_and_none_says_where_it_lies(
    fakes: Fakes, tmp_path: Path
) -> None:
    made: list[dict[str, bytes]] = []
    for place in ("here", "in/another/folder"):
        workspace = Workspace(tmp_path / place)
        workspace.root.mkdir(parents=True)
        workspace.params_file.write_text(SMALL_PARAMS)
        for stage in ("style_set", "captions", "negative_set"):
            run_stage(workspace, Asked(stage, "ink"))
        run_stage(workspace, Asked("training", "ink", "nsync"))
        files = [path for path in workspace.root.rglob("*") if path.is_file()]
        made.append(
            {
                path.relative_to(workspace.root).as_posix(): path.read_bytes()
                for path in files
                if workspace.state not in path.parents
            }
        )
    assert made[0] == made[1]
    assert len([name for name in made[0] if name.endswith("made.json")]) == 4
    assert not any(str(tmp_path).encode() in content for content in made[0].values())


def test_sha256sum_finds_every_file_and_nothing_wrong(folder: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert listed == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } - {"made.json", "SHA256SUMS", "preview-1.jpg"}


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda folder: (folder / "last.json").write_text("{}"), "last.json"),
        (lambda folder: (folder / "last.json").unlink(), "last.json"),
        (lambda folder: (folder / "images" / "aa.png").unlink(), "images/aa.png"),
        (lambda folder: (folder / "images" / "new.png").write_bytes(b""), "images/new.png"),
        (lambda folder: (folder / "images" / "made.json").write_bytes(b""), "images/made.json"),
        (lambda folder: (folder / "SHA256SUMS").write_text(""), "SHA256SUMS"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS"),
    ],
)
def test_what_is_wrong_with_it_is_named(
    folder: Path, tmp_path: Path, break_it: Callable[[Path], object], named: str
) -> None:
    check(folder, tmp_path)
    break_it(folder)
    with pytest.raises(MissingArtifactError, match="is not what the stage style_set made") as said:
        check(folder, tmp_path)
    assert str(said.value).startswith(f"{folder / named} is not")


def test_what_describes_it_may_be_lost(folder: Path, tmp_path: Path) -> None:
    """A preview that somebody removed makes no training stale."""
    (folder / "preview-1.jpg").unlink()
    check(folder, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"stage": "captions"}', "\xff"])
def test_what_cannot_be_read_counts_as_not_there(folder: Path, text: str) -> None:
    (folder / "made.json").write_bytes(text.encode("latin-1"))
    assert read_made(folder) is None


def test_an_unknown_key_counts_as_not_there(folder: Path) -> None:
    content = json.loads((folder / "made.json").read_text())
    (folder / "made.json").write_text(json.dumps(content | {"made_by": "someone"}))
    assert read_made(folder) is None


def test_the_content_is_named_by_its_files_alone(folder: Path, tmp_path: Path) -> None:
    """Not by settings, figures or previews, and not by the order in which files were written."""
    made = read_made(folder)
    assert made is not None
    again = tmp_path / "again"
    for path in sorted((p for p in folder.rglob("*") if p.is_file()), reverse=True):
        if path.name in ("made.json", "SHA256SUMS", "preview-1.jpg"):
            continue
        (again / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, again / path.relative_to(folder))
    result = StageResult({"other": 1}, (Preview("one", b"1"), Preview("two", b"2")))
    assert describe(again, made, result).content == made.content


def test_hashes_are_taken_once_and_anew_where_a_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    digest = "nsync_pipeline.graph.made.file_sha256"
    monkeypatch.setattr(digest, lambda path: hashed.append(path.name) or path.read_text())
    files = {name: tmp_path / "set" / name for name in ("a", "b")}
    (tmp_path / "set").mkdir()
    for name, path in files.items():
        path.write_text(name)
    assert FileHashes(tmp_path / "kept").of(files) == {"a": "a", "b": "b"}
    assert FileHashes(tmp_path / "kept").of(files) == {"a": "a", "b": "b"}
    assert hashed == ["a", "b"]
    files["a"].write_text("other")
    assert FileHashes(tmp_path / "kept").of(files) == {"a": "other", "b": "b"}
    assert hashed == ["a", "b", "a"]


def test_hashes_that_cannot_be_kept_cost_time_only(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_text("a")
    assert FileHashes(tmp_path / "kept").of({"a": tmp_path / "set" / "a"})
    damaged = tmp_path / "damaged"
    FileHashes(damaged).of({"a": tmp_path / "set" / "a"})
    (kept,) = damaged.iterdir()
    kept.write_text('{"a": 3')
    assert FileHashes(damaged).of({"a": tmp_path / "set" / "a"})
