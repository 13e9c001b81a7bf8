"""The style_set stage on real files."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nsync_pipeline.errors import PictureError
from nsync_pipeline.files import file_sha256
from nsync_pipeline.params import parse_params
from nsync_pipeline.pictures.manifest import STYLE_SET, read_manifest
from nsync_pipeline.pictures.sheets import PREVIEW_BYTES
from nsync_pipeline.stage import StageResult
from nsync_pipeline.style_set import stage as style_set
from nsync_pipeline.style_set.config import StyleSetSettings
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.picture_files import save, textured

DRAWN = {"source": "sketchbook:woodblock", "pictures": 12}


def run(root: Path, style: dict[str, Any] | None = None, **settings: Any) -> StageResult:
    params = parse_params(
        {
            "styles": {"hills": style or {"source": "folder"}},
            "variants": {"lora": {"update_rule": "none"}},
            "style_set": {"min_side": 16, **settings},
        }
    )
    return style_set.run(stage_context(StyleSetSettings, Workspace(root), params, "hills"))


def rows(root: Path) -> list[dict[str, Any]]:
    return read_manifest(Workspace(root).style_set("hills") / MANIFEST_FILE, STYLE_SET)


def files(root: Path) -> dict[str, bytes]:
    folder = Workspace(root).style_set("hills")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pictures(root: Path, count: int = 8) -> Path:
    folder = Workspace(root).source("hills")
    for seed in range(count):
        save(folder / f"{seed}.png", seed)
        (folder / f"{seed}.txt").write_text(f"hill {seed}")
    return folder


def test_a_folder_becomes_a_set(tmp_path: Path) -> None:
    pictures(tmp_path)
    result = run(tmp_path)
    found = rows(tmp_path)
    assert result.figures["pictures"] == len(found) == 8
    assert [row["id"] for row in found] == sorted(row["id"] for row in found)
    for row in found:
        seed = int(row["origin"].removesuffix(".png"))
        stored = Workspace(tmp_path).style_set("hills") / row["file"]
        assert row["file"] == f"images/{row['id']}.png"
        assert row["sha256"] == file_sha256(stored)
        assert (row["caption"], row["caption_source"]) == (f"hill {seed}", "txt")
        assert (row["width"], row["height"]) == (96, 80)
        with Image.open(stored) as image:
            assert image.tobytes() == textured(seed).tobytes()
    assert {row["split"] for row in found} == {"train", "test"}
    assert result.figures["train"] == sum(row["split"] == "train" for row in found)
    assert set(files(tmp_path)) == {MANIFEST_FILE, *(row["file"] for row in found)}


def test_files_are_stored_as_they_are(tmp_path: Path) -> None:
    """So a set takes as much room as its source, whatever the pictures' kinds."""
    folder = Workspace(tmp_path).source("hills")
    for seed, name in enumerate(["a.jpg", "b.webp", "c.PNG", "d.bmp"]):
        save(folder / name, seed)
    run(tmp_path)
    stored = Workspace(tmp_path).style_set("hills")
    found = {row["origin"]: row["file"] for row in rows(tmp_path)}
    assert {Path(file).suffix for file in found.values()} == {".jpg", ".webp", ".png", ".bmp"}
    for origin, file in found.items():
        assert (stored / file).read_bytes() == (folder / origin).read_bytes()


def test_two_workspaces_get_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pictures(tmp_path / name)
        run(tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_the_result_says_nothing_of_where_it_ran(tmp_path: Path) -> None:
    for name in ("one", "two"):
        pictures(tmp_path / name)
    assert run(tmp_path / "one") == run(tmp_path / "two")


def test_running_again_changes_nothing(tmp_path: Path) -> None:
    pictures(tmp_path)
    run(tmp_path)
    before = files(tmp_path)
    run(tmp_path)
    assert files(tmp_path) == before
    assert [p.name for p in Workspace(tmp_path).style_set("hills").parent.iterdir()] == [
        "style_set"
    ]


def test_adding_pictures_moves_no_other(tmp_path: Path) -> None:
    pictures(tmp_path, 8)
    run(tmp_path)
    before = {row["id"]: row for row in rows(tmp_path)}
    pictures(tmp_path, 14)
    run(tmp_path)
    after = {row["id"]: row for row in rows(tmp_path)}
    assert len(after) == 14
    assert before.items() <= after.items()


def test_previews_show_both_sides(tmp_path: Path) -> None:
    pictures(tmp_path)
    train, test = run(tmp_path).previews
    assert (train.title, test.title) == ("hills: train", "hills: test")
    for shown in (train, test):
        assert len(shown.jpeg) < PREVIEW_BYTES
        with Image.open(io.BytesIO(shown.jpeg)) as image:
            assert image.format == "JPEG"


def test_files_that_cannot_be_used_are_named_together_and_left_as_they_are(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "nothing.png").touch()
    source = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(PictureError) as caught:
        run(tmp_path)
    assert "sources/hills: 2 of the files cannot be used" in str(caught.value)
    assert "broken.jpg" in str(caught.value)
    assert "nothing.png is empty" in str(caught.value)
    assert MANIFEST_FILE not in files(tmp_path)
    assert {path: path.read_bytes() for path in folder.iterdir()} == source


def test_bad_pictures_may_be_left_out(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    (folder / "broken.jpg").write_text("not a picture")
    result = run(tmp_path, on_bad_picture="skip")
    assert result.figures["pictures"] == 8
    assert result.figures["bad_files_are"] == "broken.jpg is a text file, not a picture"


def test_a_style_without_pictures_says_how_to_bring_them_in(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="nsync add-style hills FOLDER"):
        run(tmp_path)
    folder = Workspace(tmp_path).source("hills")
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("to come")
    with pytest.raises(PictureError, match=r"holds no pictures .*nsync add-style hills FOLDER"):
        run(tmp_path)
    folder.with_name("hills.dvc").touch()
    with pytest.raises(PictureError, match=r"dvc pull sources/hills\.dvc"):
        run(tmp_path)


def test_uncaptioned_pictures_are_kept_or_left_out(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    save(folder / "bare.png", 50)
    run(tmp_path)
    assert {row["origin"]: row["caption"] for row in rows(tmp_path)}["bare.png"] is None
    result = run(tmp_path, uncaptioned="skip")
    assert (result.figures["pictures"], result.figures["without_caption_are"]) == (8, "bare.png")
    assert "bare.png" not in {row["origin"] for row in rows(tmp_path)}


def test_a_drawn_style_comes_with_its_captions(tmp_path: Path) -> None:
    result = run(tmp_path, DRAWN)
    found = rows(tmp_path)
    assert result.figures["pictures"] == len(found) == 12
    assert {row["caption_source"] for row in found} == {"sketchbook"}
    assert all(row["caption"] for row in found)
    assert sorted(row["origin"] for row in found)[0] == "woodblock_00000"


def test_more_drawn_pictures_change_none_of_the_others(tmp_path: Path) -> None:
    run(tmp_path, DRAWN)
    before = {row["id"]: row for row in rows(tmp_path)}
    run(tmp_path, DRAWN | {"pictures": 16})
    assert before.items() <= {row["id"]: row for row in rows(tmp_path)}.items()
