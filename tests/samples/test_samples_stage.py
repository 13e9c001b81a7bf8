"""generation, and pictures on demand: one seed for all variants, the LoRA where it belongs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora
from nsync_pipeline.adaptation.lora_file import save_lora
from nsync_pipeline.adaptation.saved_steps import ChosenStep
from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.manifest import SAMPLES, read_manifest
from nsync_pipeline.samples import stage as generation
from nsync_pipeline.samples.config import BaseSamplesSettings, SamplesSettings
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.workspace import (
    BASE,
    BASE_BY_NAME,
    LORA_FILE,
    MANIFEST_FILE,
    POINTS_FOLDER,
    Workspace,
    step_folder,
)
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import STYLE, drawing_params, folder_bytes, write_pictures

TEST = ("a1", "b2", "c3")


@pytest.fixture
def params(tiny_base: Path) -> Params:
    return drawing_params(tiny_base)


@pytest.fixture
def workspace(tmp_path: Path, params: Params) -> Workspace:
    """With a style set, captions, and a LoRA that is not zero."""
    workspace = Workspace(tmp_path / "workspace")
    write_pictures(workspace, ("t1",), TEST)
    save_random_lora(workspace.model(STYLE, "nsync", 0) / LORA_FILE, params, seed=1)
    return workspace


def save_random_lora(path: Path, params: Params, seed: int) -> None:
    family = load_family(params.base_model)
    stream = torch.Generator().manual_seed(seed)
    lora = add_lora(family, LoraSettings(rank=2, alpha=2.0), stream)
    with torch.no_grad():
        for weight in lora.weights:
            weight.copy_(torch.randn(weight.shape, generator=stream) * 0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_lora(family, path, {"base_revision": family.revision})


def draw(
    workspace: Workspace, params: Params, variant: str
) -> tuple[list[dict[str, Any]], list[int]]:
    reports: list[int] = []

    def tell(what: str, done: int, total: int) -> None:
        reports.append(done)

    if variant == BASE:
        generation.run_base(
            stage_context(BaseSamplesSettings, workspace, params, STYLE, progress=tell)
        )
    else:
        generation.run(
            stage_context(SamplesSettings, workspace, params, STYLE, variant, progress=tell)
        )
    manifest = workspace.samples(STYLE, variant, 0) / MANIFEST_FILE
    return read_manifest(manifest, SAMPLES), reports


def with_generation(params: Params, **changes: object) -> Params:
    return params.model_copy(update={"generation": params.generation.model_copy(update=changes)})


def test_variant_and_base_share_captions_and_seeds(workspace: Workspace, params: Params) -> None:
    params = with_generation(params, images_per_prompt=2)
    base, _ = draw(workspace, params, BASE)
    variant, _ = draw(workspace, params, "nsync")
    assert [row["id"] for row in base] == [f"{name}_{k}" for name in TEST for k in (0, 1)]
    for theirs, ours in zip(base, variant, strict=True):
        for key in ("id", "prompt_id", "k", "caption", "seed", "file", "width", "height"):
            assert ours[key] == theirs[key]
        assert ours["seed"] == stream_seed(params.seed, "sample", ours["prompt_id"], ours["k"])
        assert ours["prompt"] == f"{ours['caption']} in the style of sks"
        assert theirs["prompt"] == f"{theirs['caption']} in the style of painting"
        assert (ours["variant"], theirs["variant"]) == ("nsync", BASE)
        assert ours["sha256"] != theirs["sha256"]


def test_the_lora_and_not_only_the_prompt_makes_the_difference(
    workspace: Workspace, params: Params
) -> None:
    """With the same words for both, only the LoRA is left to differ."""
    style = params.style(STYLE).model_copy(update={"placeholder": "painting"})
    params = params.model_copy(update={"styles": {STYLE: style}})
    base, _ = draw(workspace, params, BASE)
    variant, _ = draw(workspace, params, "nsync")
    for theirs, ours in zip(base, variant, strict=True):
        assert ours["prompt"] == theirs["prompt"]
        assert ours["sha256"] != theirs["sha256"]


def test_the_base_is_asked_by_name_once_more(workspace: Workspace, params: Params) -> None:
    plain, _ = draw(workspace, params, BASE)
    before = folder_bytes(workspace.samples(STYLE, BASE))
    style = params.style(STYLE).model_copy(update={"known_as": "Claude Monet"})
    params = params.model_copy(update={"styles": {STYLE: style}})
    again, _ = draw(workspace, params, BASE)
    asked = workspace.samples(STYLE, BASE) / POINTS_FOLDER / BASE_BY_NAME
    by_name = read_manifest(asked / MANIFEST_FILE, SAMPLES)
    assert again == plain
    after = folder_bytes(workspace.samples(STYLE, BASE))
    assert before.items() <= after.items()  # what was asked as before is drawn as before
    for theirs, named in zip(plain, by_name, strict=True):
        assert named["prompt"] == f"{named['caption']} in the style of Claude Monet"
        assert (named["seed"], named["caption"]) == (theirs["seed"], theirs["caption"])
        assert named["sha256"] != theirs["sha256"]
        assert (asked / named["file"]).is_file()


def test_first_prompts_by_id_are_drawn(workspace: Workspace, params: Params) -> None:
    rows, _ = draw(workspace, with_generation(params, prompts=2), BASE)
    assert [row["prompt_id"] for row in rows] == ["a1", "b2"]


def test_another_lora_is_drawn_anew_and_the_same_is_not(
    workspace: Workspace, params: Params
) -> None:
    first, reports = draw(workspace, params, "nsync")
    assert reports == [0, 2, 3]
    again, reports = draw(workspace, params, "nsync")
    assert (again, reports) == (first, [3])
    save_random_lora(workspace.model(STYLE, "nsync", 0) / LORA_FILE, params, seed=2)
    other, reports = draw(workspace, params, "nsync")
    assert reports == [0, 2, 3]
    assert all(a["sha256"] != b["sha256"] for a, b in zip(first, other, strict=True))


def test_the_weights_that_were_chosen_are_drawn_with(workspace: Workspace, params: Params) -> None:
    """The same pictures as where those weights are the model's own."""
    model = workspace.model(STYLE, "nsync", 0)
    save_random_lora(step_folder(model, 50) / LORA_FILE, params, seed=2)
    style = params.style(STYLE).model_copy(update={"use_steps": {"nsync-0": ChosenStep(step=50)}})
    chosen, _ = draw(workspace, params.model_copy(update={"styles": {STYLE: style}}), "nsync")
    own, _ = draw(workspace, params, "nsync")
    save_random_lora(model / LORA_FILE, params, seed=2)
    assert draw(workspace, params, "nsync")[0] == chosen
    assert all(a["sha256"] != b["sha256"] for a, b in zip(own, chosen, strict=True))


def test_a_lora_that_is_not_trained_yet_is_named(workspace: Workspace, params: Params) -> None:
    (workspace.model(STYLE, "nsync", 0) / LORA_FILE).unlink()
    with pytest.raises(MissingArtifactError, match="of 'nsync' at training seed 0 first"):
        draw(workspace, params, "nsync")


STRONG = GuidanceConfig(lora_strength=1.5)
CONTRAST = GuidanceConfig(form="difference", weight=2.0)


def test_each_further_way_of_drawing_is_a_set_of_its_own(
    workspace: Workspace, params: Params
) -> None:
    """The artefact's own pictures stay as they are; each set is what it would be by itself."""
    samples = workspace.samples(STYLE, "nsync", 0)
    of_one: dict[str, dict[str, bytes]] = {}
    for way in (GuidanceConfig(), STRONG, CONTRAST):
        draw(workspace, with_generation(params, guidance=way), "nsync")
        of_one[way.key] = folder_bytes(samples)
    rows, reports = draw(workspace, with_generation(params, points=(STRONG, CONTRAST)), "nsync")
    assert [row["prompt_id"] for row in rows] == list(TEST)
    assert len(reports) == 3 * len((0, 2, 3))
    found = folder_bytes(samples)
    for way in (STRONG, CONTRAST):
        within = f"{POINTS_FOLDER}/{way.key}/"
        own = {name.removeprefix(within): found.pop(name) for name in list(found) if within in name}
        assert own == of_one[way.key]
    assert found == of_one[GuidanceConfig().key]
    assert len({files["manifest.parquet"] for files in of_one.values()}) == 3


def test_a_way_more_draws_that_way_alone_and_one_less_is_forgotten(
    workspace: Workspace, params: Params
) -> None:
    draw(workspace, with_generation(params, points=(STRONG,)), "nsync")
    both = with_generation(params, points=(STRONG, CONTRAST))
    assert draw(workspace, both, "nsync")[1] == [3, 3, 0, 2, 3]
    draw(workspace, with_generation(params, points=(CONTRAST,)), "nsync")
    kept = workspace.scratch("generation", STYLE, "nsync", "0", POINTS_FOLDER)
    assert [folder.name for folder in kept.iterdir()] == [CONTRAST.key]
    draw(workspace, both, BASE)
    assert not (workspace.samples(STYLE, BASE) / POINTS_FOLDER).exists()
