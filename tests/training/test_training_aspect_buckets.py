"""Pictures of several shapes, through the stages that draw and train."""

import csv
import io
from pathlib import Path

import pytest
from PIL import Image

from nsync_pipeline.errors import TrainingError
from nsync_pipeline.negative_set import stage as negative_set
from nsync_pipeline.negative_set.config import NegativeSetSettings
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, SAMPLES, read_manifest
from nsync_pipeline.pictures.pixels import open_squares
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.samples import stage as generation
from nsync_pipeline.samples.config import BaseSamplesSettings, SamplesSettings
from nsync_pipeline.training import stage as training
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.training.inputs import read_training_inputs
from nsync_pipeline.workspace import BASE, MANIFEST_FILE, TrainingRun, Workspace
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import STYLE, drawing_params, folder_bytes, write_pictures

TRAIN = ("b1", "c2", "d3", "e4", "f5")
TEST = ("a8", "a9")
SIZES = {"b1": (60, 36), "c2": (120, 72), "d3": (36, 60), "a9": (100, 60)}
"""At 32 pixels in steps of 8, 5 : 3 and 3 : 5 are 40 x 24 and 24 x 40; 48 x 40 is a square."""
SETTINGS: dict[str, object] = {
    "steps": 3,
    "batch_size": 2,
    "update_rule": "orthogonal_anchor",
    "lora": {"rank": 1, "alpha": 1.0},
}


def params_of(base: Path, buckets: bool, **training_settings: object) -> Params:
    return drawing_params(
        base,
        base_model={"name": str(base), "device": "cpu", "aspect_buckets": buckets},
        training={**SETTINGS, **training_settings},
        variants={"nsync": {"update_rule": "orthogonal_anchor"}},
    )


def run_all(root: Path, params: Params, sizes: dict[str, tuple[int, int]]) -> Workspace:
    workspace = Workspace(root)
    write_pictures(workspace, TRAIN, TEST, sizes)
    negative_set.run(stage_context(NegativeSetSettings, workspace, params, STYLE))
    training.run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync"))
    for variant in (BASE, "nsync"):
        if variant == BASE:
            generation.run_base(
                stage_context(BaseSamplesSettings, workspace, params, STYLE, variant)
            )
        else:
            generation.run(stage_context(SamplesSettings, workspace, params, STYLE, variant))
    return workspace


@pytest.fixture(scope="module")
def bucketed(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return run_all(tmp_path_factory.mktemp("bucketed"), params_of(tiny_base, True), SIZES)


def test_negatives_and_samples_have_the_shape_of_their_picture(bucketed: Workspace) -> None:
    expected = {"b1": (40, 24), "c2": (40, 24), "d3": (24, 40), "e4": (32, 32), "f5": (32, 32)}
    folder = bucketed.negative_set(STYLE)
    rows = read_manifest(folder / MANIFEST_FILE, NEGATIVE_SET)
    assert {row["positive_id"]: (row["width"], row["height"]) for row in rows} == expected
    for row in rows:
        with Image.open(folder / row["file"]) as image:
            assert image.size == expected[row["positive_id"]]
    for variant in (BASE, "nsync"):
        rows = read_manifest(bucketed.samples(STYLE, variant, 0) / MANIFEST_FILE, SAMPLES)
        sizes = {row["prompt_id"]: (row["width"], row["height"]) for row in rows}
        assert sizes == {"a8": (32, 32), "a9": (40, 24)}


def test_what_is_compared_are_the_centre_squares(bucketed: Workspace) -> None:
    """The larger square of 32 x 32 and 40 x 24 has 32 pixels a side."""
    pictures = read_style_pictures(bucketed, STYLE, [TrainingRun("nsync", 0)])
    assert pictures.side == 32
    paths = [sample.path for sample in pictures.samples["nsync-0"]]
    assert [square.size for square in open_squares(paths, pictures.side)] == [(32, 32)] * 2


def test_training_on_several_shapes_is_the_same_again(
    bucketed: Workspace, tiny_base: Path, tmp_path: Path
) -> None:
    again = run_all(tmp_path, params_of(tiny_base, True), SIZES)
    assert folder_bytes(again.model(STYLE, "nsync", 0)) == folder_bytes(
        bucketed.model(STYLE, "nsync", 0)
    )


def test_square_pictures_are_trained_alike_with_buckets_and_without(
    tiny_base: Path, tmp_path: Path
) -> None:
    found = []
    for buckets in (True, False):
        workspace = run_all(tmp_path / str(buckets), params_of(tiny_base, buckets), {})
        outs = (workspace.negative_set(STYLE), workspace.model(STYLE, "nsync", 0))
        found.append([folder_bytes(out) for out in outs])
    assert found[0] == found[1]


def test_too_few_negatives_are_told_before_anything_is_encoded(
    bucketed: Workspace, tiny_base: Path
) -> None:
    params = params_of(tiny_base, True, contrast={"negatives": 2})
    settings = params.variant("nsync")
    with pytest.raises(TrainingError, match=r"asks for 2 negatives.*has 1 of some: set negative_s"):
        read_training_inputs(bucketed, STYLE, "sks", settings, "painting")


def test_the_negatives_prompt_is_as_the_contrast_says(bucketed: Workspace, tiny_base: Path) -> None:
    params = params_of(tiny_base, True, contrast={"negative_prompt": "not_in_style"})
    inputs = read_training_inputs(bucketed, STYLE, "sks", params.variant("nsync"), "painting")
    caption = inputs.train[0].prompt.removesuffix(" in the style of sks")
    assert inputs.train[0].negative_prompt == f"{caption} not in the style of sks"
    assert inputs.style_prompts.positive == "in the style of sks"
    assert inputs.style_prompts.negative == "not in the style of sks"
    same = read_training_inputs(
        bucketed, STYLE, "sks", params_of(tiny_base, True).variant("nsync"), "painting"
    )
    assert same.train[0].negative_prompt is None
    assert same.style_prompts.negative == "in the style of sks"


EVERYTHING: dict[str, object] = {
    "shared_noise": True,
    "caption_dropout": 0.2,
    "content_dropout": 0.5,
    "negatives_of": "other",
    "contrast": {"negatives": 2, "negative_prompt": "not_in_style"},
    "objective": {"loss": "huber", "min_snr_gamma": 5.0, "timestep_sampling": "logit_normal"},
}


@pytest.mark.parametrize(
    "adapted",
    [{}, {"lora": None, "textual_inversion": {"vectors": 2}}],
    ids=["lora", "textual inversion"],
)
def test_all_options_go_together_on_several_shapes(
    tiny_base: Path, tmp_path: Path, adapted: dict[str, object]
) -> None:
    """Fused and in turn see the same batches: their losses agree before the first update."""
    losses = []
    for branches in ("fused", "in_turn"):
        params = params_of(tiny_base, True, branches=branches, steps=1, **EVERYTHING, **adapted)
        params = params.model_copy(
            update={"negative_set": params.negative_set.model_copy(update={"per_positive": 3})}
        )
        workspace = Workspace(tmp_path / branches)
        write_pictures(workspace, TRAIN, TEST, SIZES)
        negative_set.run(stage_context(NegativeSetSettings, workspace, params, STYLE))
        training.run(stage_context(TrainingSettings, workspace, params, STYLE, "nsync"))
        text = (workspace.model(STYLE, "nsync", 0) / "history.csv").read_text()
        (row,) = csv.DictReader(io.StringIO(text))
        losses.append([float(row[f"loss_{name}"]) for name in ("positive", "negative", "anchor")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert all(0 < loss < 10 for loss in losses[0])
