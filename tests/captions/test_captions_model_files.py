"""Which model it is, and where its files are."""

import logging
import shutil
from pathlib import Path

import pytest

from nsync_pipeline.captions.config import CaptionModelConfig
from nsync_pipeline.captions.vision_language_model import find_model
from nsync_pipeline.errors import BaseModelError
from tests.support.tiny_captioners import save_tiny_llava

COMMIT = "c" * 40
NAME = "somebody/vlm"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def cache(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub's client, with the model in it, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--somebody--vlm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(folder, repository / "snapshots" / COMMIT))


def test_a_downloaded_model_is_taken_from_the_cache(cache: Path) -> None:
    found = find_model(CaptionModelConfig(name=NAME, revision=COMMIT))
    assert (found.name, found.revision) == (NAME, COMMIT)
    assert found.fetch() == cache


def test_without_a_revision_the_newest_is_taken_with_a_warning(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = find_model(CaptionModelConfig(name=NAME, revision=None))
    assert found.revision == COMMIT
    assert f"revision: {COMMIT}" in caplog.text


def test_a_pinned_model_need_not_be_here_to_be_known(cache: Path) -> None:
    shutil.rmtree(cache)
    found = find_model(CaptionModelConfig(name=NAME, revision=COMMIT))
    assert found.revision == COMMIT
    with pytest.raises(BaseModelError, match="the hub cannot be reached"):
        found.fetch()


def test_a_folder_is_known_by_its_content_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    first, second = (find_model(CaptionModelConfig(name=str(f))) for f in (folder, moved))
    assert first.revision == second.revision
    assert first.revision.startswith("sha256:")
    assert second.fetch() == moved

    (moved / "chat_template.jinja").write_text("another")
    assert find_model(CaptionModelConfig(name=str(moved))).revision != first.revision


@pytest.mark.parametrize("name", ["./nowhere", "vlm", "/no/folder/here", "a/b/c"])
def test_what_is_neither_folder_nor_hub_id_is_told(name: str) -> None:
    with pytest.raises(BaseModelError, match="not a folder that exists"):
        find_model(CaptionModelConfig(name=name))
