"""Asking a tiny vision-language model."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nsync_pipeline.captions.vision_language_model import SIDE, VisionLanguageModel
from nsync_pipeline.errors import BaseModelError
from tests.support.tiny_captioners import save_tiny_internvl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_internvl(tmp_path_factory.mktemp("internvl"))


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionLanguageModel:
    return VisionLanguageModel(folder, torch.device("cpu"), torch.float32)


def noise(count: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [
        Image.fromarray(draw.integers(0, 256, (24, 20 + 8 * n, 3)).astype(np.uint8))
        for n in range(count)
    ]


def test_the_answer_depends_on_the_picture_and_on_the_question(model: VisionLanguageModel) -> None:
    pictures = noise(4)
    here = model.answers(pictures, "Where?", 16)
    assert len(set(here)) > 1
    assert model.answers(pictures, "Where?", 16) == here
    assert model.answers(pictures, "Who is it?", 16) != here


def test_where_memory_is_short_the_batch_is_halved(
    folder: Path, model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, sizes = noise(5), []
    whole = model.answers(pictures, "Where?", 8)
    short = VisionLanguageModel(folder, torch.device("cpu"), torch.float32)
    answer = short._answers

    def answer_two_at_most(batch: Sequence[Image.Image], *rest: Any) -> list[str]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return answer(batch, *rest)

    monkeypatch.setattr(short, "_answers", answer_two_at_most)
    assert short.answers(pictures, "Where?", 8) == whole
    assert sizes == [5, 2, 3, 1, 2]


def test_a_large_picture_is_brought_down_before_the_model_sees_it(
    model: VisionLanguageModel,
) -> None:
    large = Image.effect_noise((3 * SIDE, 2 * SIDE), 40).convert("RGB")
    small = large.resize((SIDE, SIDE * 2 // 3), Image.Resampling.LANCZOS)
    assert model.answers([large], "Where?", 8) == model.answers([small], "Where?", 8)


def test_weights_that_are_missing_are_not_made_up(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    lacking = Path(shutil.copytree(folder, tmp_path / "lacking"))
    file = lacking / "model.safetensors"
    weights = load_file(file)
    first = min(weights)
    del weights[first]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(BaseModelError, match="lacks 1 weights"):
        VisionLanguageModel(lacking, torch.device("cpu"), torch.float32)


def test_code_of_the_models_own_is_never_run(folder: Path, tmp_path: Path) -> None:
    import json

    foreign = Path(shutil.copytree(folder, tmp_path / "foreign"))
    settings = json.loads((foreign / "config.json").read_text())
    settings |= {"model_type": "their_own", "auto_map": {"AutoConfig": "their.Config"}}
    (foreign / "config.json").write_text(json.dumps(settings))
    ran = tmp_path / "ran"
    (foreign / "their.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Config: ...\n")
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        VisionLanguageModel(foreign, torch.device("cpu"), torch.float32)
    assert not ran.exists()
