"""Two trainings of one variant: their own random streams, on the same data, side by side."""

import json
from pathlib import Path

import pytest

from nsync_pipeline.adaptation.lora_file import read_lora_file
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.generate.model import drawing_model, training_with
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.manifest import SAMPLES, read_manifest
from nsync_pipeline.samples import stage as generation
from nsync_pipeline.samples.config import GenerationConfig, SamplesSettings
from nsync_pipeline.training import stage as training
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.workspace import LORA_FILE, MANIFEST_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style

TRAINING = {"steps": 3, "batch_size": 2, "checkpoint_every": 2, "lora": {"rank": 2, "alpha": 4.0}}
FILES = (LORA_FILE, "history.csv", "training.json")


@pytest.fixture(scope="module")
def params(tiny_base: Path) -> Params:
    sampler = SamplerConfig(steps=2, batch_size=2)
    changes = {
        "training_seeds": (0, 1),
        "generation": GenerationConfig(prompts=2, sampler=sampler),
    }
    return tiny_params(tiny_base, TRAINING).model_copy(update=changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, params: Params, tiny_base: Path) -> Workspace:
    """Both trainings and what is drawn with them."""
    workspace = Workspace(tmp_path_factory.mktemp("made"))
    write_tiny_style(workspace, tiny_family(tiny_base).revision)
    for seed in (0, 1):
        for stage, settings in ((training, TrainingSettings), (generation, SamplesSettings)):
            stage.run(stage_context(settings, workspace, params, STYLE, "nsync", seed))
    return workspace


def contents(workspace: Workspace, seed: int) -> dict[str, bytes]:
    model = workspace.model(STYLE, "nsync", seed)
    return {name: (model / name).read_bytes() for name in FILES}


def test_each_seed_trains_a_lora_of_its_own(made: Workspace) -> None:
    first, second = (contents(made, seed) for seed in (0, 1))
    assert all(first[name] != second[name] for name in FILES)


def test_seed_0_is_what_it_is_without_the_others(
    made: Workspace, params: Params, tiny_base: Path, tmp_path: Path
) -> None:
    alone = Workspace(tmp_path)
    write_tiny_style(alone, tiny_family(tiny_base).revision)
    training.run(
        stage_context(TrainingSettings, alone, tiny_params(tiny_base, TRAINING), STYLE, "nsync")
    )
    assert contents(alone, 0) == contents(made, 0)


def test_trainings_are_measured_at_the_same_noise(made: Workspace) -> None:
    """Before the first step a LoRA changes nothing: so their held-out losses are the same then."""
    losses = [
        json.loads(contents(made, seed)["training.json"])["held_out_losses"] for seed in (0, 1)
    ]
    assert losses[0]["0"] == losses[1]["0"]
    assert losses[0]["3"] != losses[1]["3"]


def test_a_lora_says_its_training_seed(made: Workspace) -> None:
    header, _ = read_lora_file(made.model(STYLE, "nsync", 1) / LORA_FILE)
    assert (header.origin["seed"], header.origin["training_seed"]) == ("0", "1")


def test_both_draw_the_same_captions_from_the_same_noise(made: Workspace) -> None:
    first, second = (
        read_manifest(made.samples(STYLE, "nsync", seed) / MANIFEST_FILE, SAMPLES)
        for seed in (0, 1)
    )
    for one, other in zip(first, second, strict=True):
        assert (one["id"], one["prompt"], one["seed"]) == (
            other["id"], other["prompt"], other["seed"],
        )  # fmt: skip
        assert one["sha256"] != other["sha256"]


def test_pictures_on_demand_are_of_the_training_that_is_asked_for(
    made: Workspace, params: Params
) -> None:
    first, second = (
        drawing_model(made, params, STYLE, "nsync", training_seed=seed) for seed in (None, 1)
    )
    assert first.place == made.model(STYLE, "nsync", 0)
    assert second.place == made.model(STYLE, "nsync", 1)
    found = training_with(made, params, STYLE, "nsync", second.weights_sha256())
    assert found == 1
    assert training_with(made, params, STYLE, "nsync", "0" * 64) is None


def test_a_seed_that_is_not_trained_yet_is_named(made: Workspace, params: Params) -> None:
    more = params.model_copy(update={"training_seeds": (0, 1, 2)})
    with pytest.raises(MissingArtifactError, match="of 'nsync' at training seed 2 first"):
        generation.run(stage_context(SamplesSettings, made, more, STYLE, "nsync", training_seed=2))
