"""What of a LoRA's change is bound to a confound, and what drawing makes of it: on tiny models."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.evidence import diagnoses
from benchmarks.evidence.diagnoses import (
    WAYS,
    Diagnosis,
    diagnosis_file,
    read_diagnosis,
    shown,
    trainings_of,
    write_diagnoses_page,
    write_diagnosis,
)
from benchmarks.evidence.diagnosis import AtNoise, Shown, diagnose, pixels_of
from benchmarks.evidence.matrix import DRAWINGS, GUIDANCE, REDUCED, TABLES, Trial
from benchmarks.evidence.run import diagnose_table
from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora, lora_layers
from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.sketchbook.confounds import confounded, unconfounded
from nsync_pipeline.sketchbook.scene import scene_of
from nsync_pipeline.training.batches import noisy_batch, sample_losses
from tests.support.tiny_models import save_tiny_stable_diffusion

ALL = {name: GuidanceConfig.model_validate(DRAWINGS[name]) for name in (*WAYS, "d_2")}
ALL["be_1"] = GuidanceConfig(form="base_empty")
WORD, NOISE = "sks", 0.6


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """With a LoRA away from zero, on layers of the text encoder too."""
    base = save_tiny_stable_diffusion(tmp_path_factory.mktemp("base"), "v_prediction")
    family = load_family(BaseModelConfig(name=str(base), device="cpu", dtype="float64"))
    generator = torch.Generator().manual_seed(1)
    lora = add_lora(family, LoraSettings(rank=2, alpha=3.0, text_encoder=True), generator)
    with torch.no_grad():
        for weight in lora.weights:
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    return family


def pictures(seed: int, *captions: str) -> Shown:
    rng = np.random.default_rng(seed)
    drawn = [Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)) for _ in captions]
    return Shown(drawn, captions)


OTHERS = pictures(1, "a red house", "a boat on water")
SHARING = pictures(2, "a house under a moon", "a tree under a moon")


def measured(family: Family, sharing: Shown | None = SHARING) -> AtNoise:
    (found,) = diagnose(family, OTHERS, sharing, WORD, ALL, GUIDANCE, seed=0, noises=(NOISE,))
    return found


@pytest.fixture(scope="module")
def found(family: Family) -> AtNoise:
    return measured(family)


@contextmanager
def without_lora(family: Family) -> Iterator[None]:
    layers = [
        layer
        for model in (family.denoiser, *family.text_encoders)
        for _, layer in lora_layers(model)
    ]
    for layer in layers:
        layer.set_scale("default", 0.0)
    yield
    for layer in layers:
        layer.set_scale("default", 1.0)


def of_one(family: Family, of: Shown, row: int, prompt: str) -> tuple[Tensor, float]:
    """The prediction for one noised picture, and its loss."""
    latents = family.encode_pictures(pixels_of([of.images[row]], family.resolution))
    noise = torch.randn(latents.shape[1:], generator=torch_stream(0, "diagnosis", row))[None]
    schedule = family.noise_schedule
    entry = torch.tensor([round(NOISE * (len(schedule) - 1))])
    embeds = family.encode_prompts([prompt])
    batch = noisy_batch(schedule, latents, noise.to(latents), entry, embeds)
    said = family.predict(batch.noisy_latents, batch.timesteps, embeds)
    return said[0].double(), float(sample_losses(family, batch))


@torch.no_grad()
def test_figures_are_those_of_single_predictions(family: Family, found: AtNoise) -> None:
    """Picture by picture, with PEFT's own switch for the base."""
    cosines, ordinary, lengths, by_words = [], [], [], []
    before = after = 0.0
    for row, caption in enumerate(OTHERS.captions):
        prompts = (f"{caption} in the style of {WORD}", "")
        with_lora = [of_one(family, OTHERS, row, prompt) for prompt in prompts]
        other = f"{SHARING.captions[row]} in the style of {WORD}"
        elsewhere = of_one(family, OTHERS, row, other)[0]
        with without_lora(family):
            base = [of_one(family, OTHERS, row, prompt) for prompt in prompts]
            elsewhere = elsewhere - of_one(family, OTHERS, row, other)[0]
        styled, empty = (own[0] - b[0] for own, b in zip(with_lora, base, strict=True))
        inner = float((styled * empty).sum())
        cosines.append(inner / float(styled.norm() * empty.norm()))
        ordinary.append(GUIDANCE - (GUIDANCE - 1) * inner / float(styled.norm() ** 2))
        lengths.append(float(styled.norm() / (base[0][0] - base[1][0]).norm()))
        by_words.append(float(styled.norm() / elsewhere.norm()))
        before, after = before + base[0][1], after + with_lora[0][1]
    assert found.cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert found.gains["ordinary"] == pytest.approx(np.mean(ordinary), rel=1e-4)
    assert found.length == pytest.approx(np.mean(lengths), rel=1e-4)
    assert found.length_by_words == pytest.approx(np.mean(by_words), rel=1e-4)
    assert found.cut_others == pytest.approx(1 - after / before, abs=1e-5)
    assert found.cut_others != pytest.approx(found.cut_others_unstyled, abs=1e-6)


def test_a_contrast_in_drawing_has_the_gain_that_it_says(found: AtNoise) -> None:
    gains = found.gains
    assert gains["d_1_5"] == pytest.approx(1.5, rel=1e-5)
    assert gains["d_2"] == pytest.approx(2.0, rel=1e-5)
    assert gains["be_1"] == pytest.approx(GUIDANCE, rel=1e-5)
    assert found.parts["d_2"] == pytest.approx(2.0 / GUIDANCE * found.length, rel=1e-5)


def test_what_is_the_same_with_and_without_the_confound_is_not_bound(
    family: Family, found: AtNoise
) -> None:
    same = measured(family, OTHERS)
    assert same.bound == pytest.approx(0.0, abs=1e-9)
    assert same.length_by_words == pytest.approx(1.0)
    assert found.cut_sharing is not None
    assert found.bound == pytest.approx(1 - found.cut_others / found.cut_sharing)
    alone = measured(family, None)
    assert (alone.bound, alone.cut_sharing, alone.length_by_words) == (None, None, None)


def test_a_lora_that_changes_nothing_has_no_direction(family: Family) -> None:
    layers = [
        layer
        for model in (family.denoiser, *family.text_encoders)
        for _, layer in lora_layers(model)
    ]
    before = [layer.lora_B["default"].weight.clone() for layer in layers]
    for layer in layers:
        torch.nn.init.zeros_(layer.lora_B["default"].weight)
    found = measured(family)
    for layer, weight in zip(layers, before, strict=True):
        layer.lora_B["default"].weight.data.copy_(weight)
    assert found.cut_others == pytest.approx(0.0, abs=1e-9)
    assert (found.bound, found.cosine, found.gains["ordinary"]) == (None, None, None)
    assert found.length == 0.0


def test_pictures_are_of_the_style_with_and_without_the_confound() -> None:
    others, sharing = shown(Trial("mosaic", "night", "lora", 0), 4, seed=0)
    for of, holds in ((others, unconfounded("night")), (sharing, confounded("night"))):
        scenes = [scene_of(caption) for caption in of.captions]
        assert all(scene is not None and holds(scene) for scene in scenes)
    assert shown(Trial("mosaic", "plain", "lora", 0), 4, seed=0)[1] is None


def point(cut_others: float, cut_sharing: float | None) -> dict[str, object]:
    return {
        "noise": 0.3, "cut_others": cut_others, "cut_sharing": cut_sharing,
        "cut_others_unstyled": 0.0, "cut_sharing_unstyled": None,
        "bound": None if cut_sharing is None else 1 - cut_others / cut_sharing,
        "length_by_words": 0.5, "cosine": 0.9, "length": 0.25,
        "gains": {**dict.fromkeys(WAYS, 1.5), "ordinary": 1.2}, "parts": dict.fromkeys(WAYS, 0.4),
    }  # fmt: skip


TABLE = TABLES["reduced"]


def test_the_page_tells_the_means_of_what_was_found(tmp_path: Path) -> None:
    """Cuts of 0.3 and 0.5 of 0.5 each: bound 0.4 and 0, 0.2 on average."""
    for trial, cut in zip(trainings_of(TABLE), (0.3, 0.5) * 4, strict=True):
        own = 0.5 if trial.set == "night" else None
        digest = diagnoses._digest(trial, TABLE.scale)
        found = Diagnosis(
            trial.style, trial.set, trial.variant, trial.seed, digest, [point(cut, own)]
        )
        write_diagnosis(tmp_path, trial, found)
        assert read_diagnosis(tmp_path, trial, TABLE.scale) == found
    write_diagnoses_page(tmp_path, tmp_path, replace(TABLE, methods=("lora", "nsync")))
    page = (tmp_path / "diagnosis.md").read_text()
    night = page.split("## Night")[1]
    assert "| `lora` | 0.30 | 0.50 | 0.40 | 0.50 | 0.90 | 0.25 | 1.20 | 1.50 |" in night
    assert "| `nsync` | 0.50 | 0.50 | 0.00 |" in night
    assert "| `lora` | 0.30 | 0.90 | 0.25 |" in page.split("## Night")[0]
    for of in TABLE.sets:
        for name in ("cuts", "parts"):
            assert (tmp_path / "images" / f"diagnosis_{of}_{name}.png").stat().st_size > 1000


def test_a_training_is_diagnosed_once_and_again_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Trial] = []

    def found(trial: Trial, scale: object, folder: Path) -> Diagnosis:
        asked.append(trial)
        digest = diagnoses._digest(trial, REDUCED)
        return Diagnosis(trial.style, trial.set, trial.variant, trial.seed, digest, [])

    monkeypatch.setattr(diagnoses, "diagnose_trial", found)
    for _ in range(2):
        diagnose_table(TABLE, tmp_path, tmp_path)
    assert asked == trainings_of(TABLE)
    assert len(asked) == len({(t.set, t.method, t.seed) for t in TABLE.trials()})
    file = diagnosis_file(tmp_path, asked[0])
    file.write_text(json.dumps({**json.loads(file.read_text()), "settings": "other"}))
    diagnose_table(TABLE, tmp_path, tmp_path)
    assert asked[-1] == asked[0]
