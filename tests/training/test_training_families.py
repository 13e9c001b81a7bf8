"""All stages, one after another, on a tiny model of each family: the training loop knows none."""

import csv
import json
from collections.abc import Callable
from functools import cache, partial
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING
from PIL import Image
from safetensors.torch import load_file

from nsync_pipeline.adaptation.lora_file import read_lora_file
from nsync_pipeline.adaptation.other_forms import others_name
from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.captions import stage as captions
from nsync_pipeline.captions.config import CaptionsSettings
from nsync_pipeline.evaluation import features
from nsync_pipeline.evaluation import stage as evaluation
from nsync_pipeline.evaluation.config import EvaluationSettings
from nsync_pipeline.export.folder import export_model
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.negative_set import stage as negative_set
from nsync_pipeline.negative_set.config import NegativeSetSettings
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, SAMPLES, read_manifest
from nsync_pipeline.report import stage as report
from nsync_pipeline.report.config import ReportSettings
from nsync_pipeline.samples import stage as generation
from nsync_pipeline.samples.config import BaseSamplesSettings, SamplesSettings
from nsync_pipeline.settings import StageSettings
from nsync_pipeline.sketchbook.world import DrawnPicture, draw_style_set
from nsync_pipeline.style_set import stage as style_set
from nsync_pipeline.style_set.config import StyleSetSettings
from nsync_pipeline.training import stage as training
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.workspace import BASE, LORA_FILE, MANIFEST_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.tiny_flow_models import PIPELINES, save_tiny_flow_model, save_tiny_flux_1
from tests.support.tiny_models import (
    save_tiny_stable_diffusion,
    save_tiny_stable_diffusion_3,
    save_tiny_stable_diffusion_xl,
)

STYLE = "woodblock"
SAMPLER = {"scheduler": "dpm", "steps": 3, "guidance_scale": 3.0, "batch_size": 4}
ORDER: tuple[tuple[ModuleType, type[StageSettings], str | None], ...] = (
    (style_set, StyleSetSettings, None),
    (captions, CaptionsSettings, None),
    (negative_set, NegativeSetSettings, None),
    (training, TrainingSettings, "lora"),
    (training, TrainingSettings, "nsync"),
    (generation, BaseSamplesSettings, BASE),
    (generation, SamplesSettings, "lora"),
    (generation, SamplesSettings, "nsync"),
    (evaluation, EvaluationSettings, None),
    (report, ReportSettings, None),
)


@cache
def drawn_once(style: str, count: int, seed: int) -> tuple[DrawnPicture, ...]:
    """What the evaluation compares with: it is the same whatever the family."""
    return tuple(draw_style_set(style, count, seed))


def params_of(base: Path) -> Params:
    return parse_params(
        {
            "base_model": {"name": str(base), "device": "cpu", "resolution": 32},
            "styles": {STYLE: {"source": "sketchbook:woodblock", "pictures": 10}},
            "negative_set": {"sampler": SAMPLER},
            "training": {
                "steps": 3, "batch_size": 2, "checkpoint_every": 2, "lora": {"rank": 2},
            },
            "variants": {
                "lora": {"update_rule": "none"},
                "nsync": {"update_rule": "orthogonal_anchor"},
            },
            "generation": {"sampler": SAMPLER},
            "evaluation": {"bootstrap_draws": 100},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("save", "prefix"),
    [
        (partial(save_tiny_stable_diffusion, prediction_type="v_prediction"), "unet."),
        (save_tiny_stable_diffusion_xl, "unet."),
        (save_tiny_stable_diffusion_3, "transformer."),
        (save_tiny_flux_1, "transformer."),
        *((partial(save_tiny_flow_model, family=name), "transformer.") for name in PIPELINES),
    ],
    ids=["sd2", "xl", "sd3", "flux_1", *PIPELINES],
)
def test_a_family_goes_through_the_whole_pipeline(
    save: Callable[[Path], Path], prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "draw_style_set", drawn_once)
    workspace, params = Workspace(tmp_path / "workspace"), params_of(save(tmp_path / "base"))
    results: dict[tuple[str, str | None], Any] = {}
    for stage, settings, variant in ORDER:
        name = stage.__name__.split(".")[1]
        context = stage_context(settings, workspace, params, STYLE, variant)
        run = stage.run_base if variant == BASE else stage.run
        results[name, variant] = run(context).figures

    family = load_family(params.base_model)
    negatives = read_manifest(workspace.negative_set(STYLE) / MANIFEST_FILE, NEGATIVE_SET)
    assert {row["base_revision"] for row in negatives} == {family.revision}
    assert {row["sampler"] for row in negatives} == {"DPMSolverMultistepScheduler"}

    model = workspace.model(STYLE, "nsync", 0)
    with (model / "history.csv").open() as history:
        rows = list(csv.DictReader(history))
    assert len(rows) == 3
    assert all(float(row["loss_negative"]) > 0 < float(row["norm_anchor"]) for row in rows)
    summary = json.loads((model / "training.json").read_text())
    assert summary["branches"] == "fused"

    load_trained(family, model)
    _, tensors = read_lora_file(model / LORA_FILE)
    assert all(name.startswith(prefix) for name in tensors)

    exported = export_model(workspace, params, STYLE, "nsync", "all", tmp_path / "exported")
    assert exported.notes == ()
    for file in (LORA_FILE, others_name(STYLE, "nsync")):
        _, tensors = read_lora_file(model / LORA_FILE)
        shared = load_file(exported.folder / file)
        if prefix == "transformer.":  # diffusers' names, and all of the training's layers
            assert shared.keys() == tensors.keys()
    assert "load_lora_weights" in (exported.folder / "README.md").read_text("utf-8")
    index = json.loads((tmp_path / "base" / "model_index.json").read_text())
    assert index["_class_name"] in {p.__name__ for p in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}

    pictures = {}
    for variant in (BASE, "lora", "nsync"):
        samples = read_manifest(workspace.samples(STYLE, variant, 0) / MANIFEST_FILE, SAMPLES)
        pictures[variant] = [row["sha256"] for row in samples]
        with Image.open(workspace.samples(STYLE, variant, 0) / samples[0]["file"]) as image:
            assert image.size == (32, 32)
    assert len(set(map(tuple, pictures.values()))) == 3
    figures = results["evaluation", None]
    assert figures["nsync against lora"]
    measured = [
        tuple(value for name, value in figures.items() if name.startswith(f"{variant} "))
        for variant in (BASE, "lora", "nsync")
    ]
    assert [len(values) for values in measured] == [5, 5, 6]  # and the verdict
    assert len({values[:5] for values in measured}) == 3
    assert all(isfinite(value) for values in measured for value in values[:5])
    assert (workspace.report(STYLE) / "report.html").is_file()
