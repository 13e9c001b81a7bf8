"""The weights in the package: small, described, and at work."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from nsync_pipeline.sketchbook import CLIP_FOLDER, JUDGES_FOLDER, PIPELINE_FOLDER
from nsync_pipeline.sketchbook.folders import WEIGHTS_FOLDER
from nsync_pipeline.sketchbook.judges import load_judges
from nsync_pipeline.sketchbook.verdicts import LABELS

CARD = Path(__file__).parents[2] / "docs" / "sketchbook.md"


def test_weights_fit_in_thirty_megabytes() -> None:
    assert {PIPELINE_FOLDER.parent, CLIP_FOLDER.parent, JUDGES_FOLDER.parent} == {WEIGHTS_FOLDER}
    size = sum(path.stat().st_size for path in WEIGHTS_FOLDER.rglob("*") if path.is_file())
    assert 5e6 < size <= 30e6


def test_card_names_every_weight_file_with_its_digest() -> None:
    card = CARD.read_text()
    files = sorted(WEIGHTS_FOLDER.rglob("*.safetensors"))
    assert len(files) == 6
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"| `{file.relative_to(WEIGHTS_FOLDER)}` | `{digest}` |" in card


@pytest.mark.timeout(60)
def test_base_draws_what_the_prompt_names() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(PIPELINE_FOLDER, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        [
            "a red house on snow under a sun in the style of illustration",
            "a blue boat on water under a moon in the style of ink",
        ],
        num_inference_steps=12,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
        output_type="np",
    ).images
    verdicts = load_judges(JUDGES_FOLDER).judge((images * 255).round().astype(np.uint8))
    styles = [LABELS["styles"][index] for index in verdicts.styles.argmax(axis=1)]
    assert styles == ["illustration", "ink"]
    assert verdicts.objects[0, LABELS["objects"].index("house")] > 0.5
    assert verdicts.objects[1, LABELS["objects"].index("boat")] > 0.5
