"""Variants of textual inversion go through the real stages like any other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from nsync_pipeline.errors import CaptionError, MissingArtifactError, ParamsError
from nsync_pipeline.generate.model import drawing_model
from nsync_pipeline.generate.pictures import generate
from nsync_pipeline.generate.prompts import AskedPrompt
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.pictures.manifest import SAMPLES, read_manifest
from nsync_pipeline.samples import stage as generation
from nsync_pipeline.samples.config import BaseSamplesSettings, SamplesSettings
from nsync_pipeline.training import stage as training
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.workspace import (
    BASE,
    EMBEDDINGS_FILE,
    LORA_FILE,
    MANIFEST_FILE,
    Workspace,
    trained_files,
)
from tests.support.contexts import stage_context
from tests.support.tiny_models import save_tiny_stable_diffusion_xl
from tests.support.tiny_style import STYLE, tiny_family, write_tiny_style

VARIANTS: dict[str, Any] = {
    "ti": {"update_rule": "none", "lora": None, "textual_inversion": {}},
    "nsync_ti": {
        "update_rule": "orthogonal_anchor",
        "lora": None,
        "textual_inversion": {"vectors": 2, "initializer": "red"},
    },
    "nsync_ti_lora": {
        "update_rule": "orthogonal",
        "textual_inversion": {"vectors": 2},
        "lora": {"text_encoder": True},
        "text_encoder_learning_rate": 0.001,
    },
    "lora": {"update_rule": "orthogonal"},
}


def params_of(base: Path, **changes: Any) -> Params:
    return parse_params(
        {
            "base_model": {"name": str(base), "device": "cpu"},
            "styles": {STYLE: {"source": "folder"}},
            "training": {
                "steps": 3,
                "batch_size": 2,
                "learning_rate": 0.02,
                "checkpoint_every": 2,
                "lora": {"rank": 2, "alpha": 4.0},
            }
            | changes,
            "variants": VARIANTS,
            "generation": {"prompts": 1, "sampler": {"steps": 2, "batch_size": 2}},
        }
    )


@pytest.fixture(scope="module", params=["stable_diffusion", "stable_diffusion_xl"])
def base(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "stable_diffusion":
        return tiny_base
    return save_tiny_stable_diffusion_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture
def workspace(tmp_path: Path, base: Path) -> Workspace:
    workspace = Workspace(tmp_path / "workspace")
    write_tiny_style(workspace, tiny_family(base).revision, train=3, test=2)
    return workspace


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_variant_is_trained_drawn_and_told_apart(workspace: Workspace, base: Path) -> None:
    params = params_of(base)
    drawn = {}
    for variant in (*VARIANTS, BASE):
        if variant != BASE:
            training.run(stage_context(TrainingSettings, workspace, params, STYLE, variant))
        if variant == BASE:
            generation.run_base(
                stage_context(BaseSamplesSettings, workspace, params, STYLE, variant)
            )
        else:
            generation.run(stage_context(SamplesSettings, workspace, params, STYLE, variant))
        (row,) = read_manifest(workspace.samples(STYLE, variant, 0) / MANIFEST_FILE, SAMPLES)
        drawn[variant] = np.asarray(Image.open(workspace.samples(STYLE, variant, 0) / row["file"]))
        word = {BASE: "painting", "lora": "sks"}.get(variant, "<sks>")
        assert row["prompt"].endswith(f"in the style of {word}")
    for one in drawn:
        for other in drawn:
            assert (one == other) == np.array_equal(drawn[one], drawn[other])

    models = {variant: workspace.model(STYLE, variant, 0) for variant in VARIANTS}
    files = {v: [file.name for file in trained_files(model)] for v, model in models.items()}
    assert files["ti"] == files["nsync_ti"] == [EMBEDDINGS_FILE]
    assert files["nsync_ti_lora"] == [LORA_FILE, EMBEDDINGS_FILE]
    assert files["lora"] == [LORA_FILE]
    keys = load_file(models["nsync_ti_lora"] / LORA_FILE).keys()
    assert any(key.startswith("text_encoder.") for key in keys)
    summary = json.loads((models["nsync_ti"] / "training.json").read_text())
    assert summary["origin"]["placeholder"] == "<sks>"
    assert summary["branches"] == "fused"
    trained = {tuple(file.read_bytes() for file in trained_files(m)) for m in models.values()}
    assert len(trained) == len(VARIANTS)


def test_training_again_gives_the_same_bytes(workspace: Workspace, base: Path) -> None:
    params = params_of(base)
    training.run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync_ti_lora"))
    first = contents(workspace.model(STYLE, "nsync_ti_lora", 0))
    training.run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync_ti_lora"))
    assert contents(workspace.model(STYLE, "nsync_ti_lora", 0)) == first


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def test_an_interrupted_training_ends_in_the_same_bytes(workspace: Workspace, base: Path) -> None:
    """StoppedError in step 3, picked up at the checkpoint of step 2."""
    params = params_of(base)
    training.run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync_ti_lora"))
    unbroken = contents(workspace.model(STYLE, "nsync_ti_lora", 0))

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        training.run(
            stage_context(
                TrainingSettings, workspace, params, STYLE, "nsync_ti_lora", progress=stop
            )
        )
    assert any(workspace.scratch("training", STYLE, "nsync_ti_lora", "0").iterdir())
    training.run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync_ti_lora"))
    assert contents(workspace.model(STYLE, "nsync_ti_lora", 0)) == unbroken


def test_pictures_on_demand_use_the_variants_own_word(
    workspace: Workspace, base: Path, tmp_path: Path
) -> None:
    """By its variant, and by the file of its vectors: the same picture."""
    params = params_of(base)
    training.run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync_ti"))
    file = workspace.model(STYLE, "nsync_ti", 0) / EMBEDDINGS_FILE
    drawn = []
    for name, prompt, model in (
        ("one", "a tree", drawing_model(workspace, params, STYLE, "nsync_ti")),
        ("two", "a tree", drawing_model(workspace, params, STYLE, None, file)),
        (
            "three",
            "a tree in the style of <sks>",
            drawing_model(workspace, params, None, None, file),
        ),
    ):
        made = generate(params, model, [AskedPrompt(prompt, (1,))], tmp_path / name)
        with Image.open(made.files[0]) as image:
            drawn.append(image.tobytes())
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_prompt_that_the_vectors_make_too_long_is_refused(
    workspace: Workspace, base: Path
) -> None:
    params = params_of(base, textual_inversion={"vectors": 32})
    with pytest.raises(CaptionError, match=r"tokens, and .* takes"):
        training.run(stage_context(TrainingSettings, workspace, params, STYLE, "lora"))


def test_a_variant_that_is_not_trained_is_named(workspace: Workspace, base: Path) -> None:
    with pytest.raises(MissingArtifactError, match="of 'ti' at training seed 0 first"):
        generation.run(stage_context(SamplesSettings, workspace, params_of(base), STYLE, "ti"))


def test_a_variant_that_trains_nothing_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ParamsError, match="nothing would be trained"):
        params_of(tiny_base, lora=None)
