"""Pictures without a caption, described by a tiny vision-language model in the real stage."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.captions import stage as captions
from nsync_pipeline.captions.answers import caption_of
from nsync_pipeline.captions.config import CaptionsSettings
from nsync_pipeline.captions.vision_language_model import PROGRESS
from nsync_pipeline.errors import CaptionError
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.pictures.manifest import CAPTIONS, STYLE_SET, read_manifest, write_manifest
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.tiny_captioners import save_tiny_internvl, save_tiny_llava

STYLE = "hills"
SETTINGS = {"max_new_tokens": 12, "batch_size": 2, "dtype": "float32"}


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_internvl(tmp_path_factory.mktemp("internvl"))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def params(base: Path, model: dict[str, Any] | None) -> Params:
    return parse_params(
        {
            "base_model": {"name": str(base), "device": "cpu"},
            "styles": {STYLE: {"source": "folder"}},
            "variants": {"lora": {"update_rule": "none"}},
            "captioning": {"model": model},
        }
    )


def write_pictures(root: Path, texts: list[str | None]) -> None:
    """A style set of pictures of noise, 0.png with the first text, and so on."""
    folder = Workspace(root).style_set(STYLE)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, text in enumerate(texts):
        size = (20 + 8 * number, 24)
        noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3))
        file = folder / f"images/{number:016x}.png"
        Image.fromarray(noise.astype(np.uint8)).save(file)
        rows.append(
            {
                "id": f"{number:016x}", "file": f"images/{number:016x}.png",
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "width": size[0], "height": size[1], "caption": text,
                "caption_source": None if text is None else "txt",
                "split": "test" if number % 2 else "train", "origin": f"{number}.png",
            }
        )  # fmt: skip
    write_manifest(folder / MANIFEST_FILE, rows, STYLE_SET)


class Told:
    """What the stage reported of its progress with the model."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        if what == PROGRESS:
            self.done.append(done)


def caption(
    root: Path, base: Path, model: Path | None, **settings: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, Any], list[int]]:
    """Run the stage; the rows by origin's number, the figures, and the progress."""
    section = None if model is None else {"name": str(model), **SETTINGS, **settings}
    told = Told()
    settings_of = params(base, section)
    result = captions.run(
        stage_context(CaptionsSettings, Workspace(root), settings_of, STYLE, progress=told)
    )
    rows = read_manifest(Workspace(root).captions(STYLE) / MANIFEST_FILE, CAPTIONS)
    return {str(int(row["id"], 16)): row for row in rows}, dict(result.figures), told.done


def test_pictures_without_a_caption_are_described_and_a_sidecar_wins(
    tmp_path: Path, tiny_base: Path, internvl: Path
) -> None:
    write_pictures(tmp_path, [None, "a red boat", None, ""])
    rows, figures, _ = caption(tmp_path, tiny_base, internvl)

    assert [rows[n]["source"] for n in "0123"] == ["model", "txt", "model", "model"]
    assert rows["1"]["caption"] == "a red boat"
    assert len({rows[n]["raw_caption"] for n in "023"}) == 3
    for number in "023":
        assert rows[number]["caption"] == caption_of(rows[number]["raw_caption"], 25) != ""
    assert figures["by_the_model"] == 3
    assert figures["captioner"].startswith(f"{internvl}@sha256:")


def test_llava_is_asked_in_the_same_way(tmp_path: Path, tiny_base: Path, llava: Path) -> None:
    write_pictures(tmp_path, [None, None, None])
    rows, _, _ = caption(tmp_path, tiny_base, llava)

    assert {row["source"] for row in rows.values()} == {"model"}
    assert len({row["raw_caption"] for row in rows.values()}) > 1


@pytest.mark.parametrize("tiles", [False, True])
def test_the_batch_size_changes_no_caption(
    tmp_path: Path, tiny_base: Path, internvl: Path, tiles: bool
) -> None:
    """In tiles the prompts of one batch have different lengths: they are filled up on the left."""
    said = []
    for size in (1, 2, 5):
        root = tmp_path / str(size)
        write_pictures(root, [None] * 5)
        rows, _, _ = caption(root, tiny_base, internvl, batch_size=size, tiles=tiles)
        said.append([rows[str(n)]["raw_caption"] for n in range(5)])
    assert said[0] == said[1] == said[2]


def test_the_same_set_is_not_shown_to_the_model_again(
    tmp_path: Path, tiny_base: Path, internvl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path, [None, None, "a tree"])
    first = caption(tmp_path, tiny_base, internvl)
    manifest = Workspace(tmp_path).captions(STYLE) / MANIFEST_FILE
    before = manifest.read_bytes()

    monkeypatch.setattr(
        "nsync_pipeline.captions.vision_language_model.VisionLanguageModel", None
    )  # loading it would raise
    again = caption(tmp_path, tiny_base, internvl)

    assert again[:2] == first[:2]
    assert manifest.read_bytes() == before
    assert again[2] == [2]


def test_only_new_pictures_and_new_questions_are_asked(
    tmp_path: Path, tiny_base: Path, internvl: Path
) -> None:
    write_pictures(tmp_path, [None, None])
    caption(tmp_path, tiny_base, internvl)

    write_pictures(tmp_path, [None, None, None])
    _, _, added = caption(tmp_path, tiny_base, internvl)
    assert added == [2, 3]  # two are known, one is asked

    write_pictures(tmp_path, ["a tree", None, None])  # its sidecar was written meanwhile
    rows, figures, edited = caption(tmp_path, tiny_base, internvl)
    assert edited == [2]
    assert (rows["0"]["source"], rows["0"]["caption"]) == ("txt", "a tree")
    assert figures["by_the_model"] == 2

    _, _, asked = caption(tmp_path, tiny_base, internvl, question="Who is there?")
    assert asked[0] == 0
    _, _, shorter = caption(tmp_path, tiny_base, internvl, batch_size=1)
    assert shorter == [2]


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
import test_captions_model as test
from pathlib import Path
from nsync_pipeline.workspace import Workspace
from nsync_pipeline.captions import stage as captions

def killed_after_four(what, done, total):
    if what == test.PROGRESS and done >= 4:
        os.kill(os.getpid(), signal.SIGKILL)

section = {{"name": {model!r}, **test.SETTINGS}}
settings = test.params(Path({base!r}), section)
captions.run(
    test.stage_context(test.CaptionsSettings, Workspace(Path({root!r})), settings, test.STYLE,
                       progress=killed_after_four)
)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, tiny_base: Path, internvl: Path) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    for root in (broken, whole):
        write_pictures(root, [None] * 6)
    here = Path(__file__).parent
    script = KILLED.format(
        paths=[str(here), str(here.parent)], model=str(internvl), base=str(tiny_base),
        root=str(broken),
    )  # fmt: skip
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ, check=False)
    assert killed.returncode == -9
    assert not list(Workspace(broken).captions(STYLE).iterdir())

    rows, _, done = caption(broken, tiny_base, internvl)
    unbroken, _, _ = caption(whole, tiny_base, internvl)
    assert done == [4, 6]
    assert rows == unbroken
    assert _manifest(broken) == _manifest(whole)


def _manifest(root: Path) -> bytes:
    return (Workspace(root).captions(STYLE) / MANIFEST_FILE).read_bytes()


def test_an_answer_cut_off_in_the_file_is_asked_again(
    tmp_path: Path, tiny_base: Path, internvl: Path
) -> None:
    write_pictures(tmp_path, [None, None, None])
    first, _, _ = caption(tmp_path, tiny_base, internvl, batch_size=1)
    file = Workspace(tmp_path).scratch("captions", STYLE) / "answers.jsonl"
    file.write_bytes(file.read_bytes().rstrip()[:-5])

    again, _, done = caption(tmp_path, tiny_base, internvl)
    assert done == [2, 3]
    assert again == first
    _, _, done = caption(tmp_path, tiny_base, internvl)
    assert done == [3]


def test_without_a_model_the_pictures_are_named(tmp_path: Path, tiny_base: Path) -> None:
    write_pictures(tmp_path, [None, "a tree"])
    with pytest.raises(CaptionError, match=r"1 of 2 pictures .*\n.*0\.png has no caption") as said:
        caption(tmp_path, tiny_base, None)
    assert "captioning.model" in str(said.value)


def test_a_model_that_cannot_be_reached_is_told_with_the_pictures_and_the_ways_out(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    write_pictures(tmp_path, [None, "a tree", None])
    model = {"name": "somebody/some-vlm", "revision": "0" * 40}
    context = stage_context(CaptionsSettings, Workspace(tmp_path), params(tiny_base, model), STYLE)
    with pytest.raises(CaptionError) as caught:
        captions.run(context)
    message = str(caught.value)
    assert "2 pictures have no caption (0.png, 2.png)" in message
    assert "the hub cannot be reached" in message
    assert "\n" not in message
    for way in ("nsync studio", "picture.txt", "captioning.model.name"):
        assert way in message


def test_what_cannot_be_asked_of_pictures_is_told_so(
    tmp_path: Path, tiny_base: Path, internvl: Path, make_copy: Callable[[Path], Path]
) -> None:
    write_pictures(tmp_path, [None, "a tree"])
    with pytest.raises(CaptionError, match="is a clip_text_model, which does not answer"):
        caption(tmp_path, tiny_base, tiny_base / "text_encoder")

    untold = make_copy(internvl)
    (untold / "chat_template.jinja").unlink()
    with pytest.raises(CaptionError, match="no chat template"):
        caption(tmp_path, tiny_base, untold)

    pickled = make_copy(internvl)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(CaptionError, match="only safetensors"):
        caption(tmp_path, tiny_base, pickled)


@pytest.fixture
def make_copy(tmp_path: Path) -> Callable[[Path], Path]:
    import shutil

    count = iter(range(100))
    return lambda folder: Path(shutil.copytree(folder, tmp_path / f"copy{next(count)}"))
