"""Folders of real pictures, where NSYNC_REAL_PICTURES names a folder that holds such folders."""

import os
from pathlib import Path

import pytest

from nsync_pipeline.captions import stage as captions
from nsync_pipeline.captions.config import CaptionsSettings
from nsync_pipeline.params import parse_params
from nsync_pipeline.pictures.manifest import CAPTIONS, STYLE_SET, read_manifest
from nsync_pipeline.pictures.near_duplicates import LookIndex, look_of
from nsync_pipeline.pictures.pixels import load_pixels
from nsync_pipeline.style_set import stage as style_set
from nsync_pipeline.style_set.config import StyleSetSettings
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace
from tests.support.contexts import stage_context

VARIABLE = "NSYNC_REAL_PICTURES"
FOLDER = Path(os.environ.get(VARIABLE, ""))

pytestmark = [
    pytest.mark.real_pictures,
    pytest.mark.skipif(
        not os.environ.get(VARIABLE) or not FOLDER.is_dir(), reason=f"{VARIABLE} names no folder"
    ),
]


@pytest.mark.parametrize("style", ["monet", "ukiyoe"])
def test_captioned_real_pictures_become_a_set(style: str, tmp_path: Path, tiny_base: Path) -> None:
    """Every captioned picture is taken, none twice, and none of the test side is trained on."""
    workspace = Workspace(tmp_path)
    (tmp_path / "sources").mkdir()
    workspace.source(style).symlink_to(FOLDER / style)
    params = parse_params(
        {
            "base_model": {"name": str(tiny_base)},
            "styles": {style: {"source": "folder"}},
            "variants": {"lora": {"update_rule": "none"}},
            "style_set": {"uncaptioned": "skip"},
        }
    )
    figures = style_set.run(stage_context(StyleSetSettings, workspace, params, style)).figures
    captioned = len((FOLDER / style / "metadata.jsonl").read_text().splitlines())
    assert figures["pictures"] == figures["captioned"] == captioned
    assert "near_duplicates" not in figures
    assert 0.1 < int(figures["test"]) / captioned < 0.45

    folder = workspace.style_set(style)
    rows = read_manifest(folder / MANIFEST_FILE, STYLE_SET)
    assert load_pixels(folder / rows[0]["file"], (64, 64)).shape == (3, 64, 64)

    captions.run(stage_context(CaptionsSettings, workspace, params, style))
    made = read_manifest(workspace.captions(style) / MANIFEST_FILE, CAPTIONS)
    assert [row["id"] for row in made] == [row["id"] for row in rows]


@pytest.mark.parametrize("style", ["curtis-botanical", "fulleylove", "monet", "ukiyoe"])
def test_no_two_different_works_are_taken_for_the_same(style: str) -> None:
    from nsync_pipeline.pictures.decoding import decode_picture

    index = LookIndex()
    for path in sorted((FOLDER / style).glob("*.jpg")):
        look = look_of(decode_picture(path, 64, 100.0))
        assert index.same(look) == [], path
        index.add(look)
