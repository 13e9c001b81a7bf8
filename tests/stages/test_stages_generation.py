"""generation, and pictures on demand: one seed for all variants, the LoRA where it belongs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from drawing_workspace import STYLE, drawing_params, folder_bytes, write_pictures
from PIL import Image

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora
from nsync_pipeline.adaptation.saved_lora import save_lora
from nsync_pipeline.artifacts import BASE, LORA_FILE, MANIFEST_FILE, Workspace
from nsync_pipeline.errors import MissingArtifactError, ParamsError, UserError
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.image_sets.manifest import SAMPLES, read_manifest
from nsync_pipeline.params import Params
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.stages import generation
from nsync_pipeline.stages.context import StageContext
from nsync_pipeline.stages.generate_pictures import generate

TEST = ("a1", "b2", "c3")


@pytest.fixture
def params(tiny_base: Path) -> Params:
    return drawing_params(tiny_base)


@pytest.fixture
def workspace(tmp_path: Path, params: Params) -> Workspace:
    """With a style set, captions, and a LoRA that is not zero."""
    workspace = Workspace(tmp_path / "workspace")
    write_pictures(workspace, ("t1",), TEST)
    save_random_lora(workspace.model(STYLE, "nsync") / LORA_FILE, params, seed=1)
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


def draw(workspace: Workspace, params: Params, variant: str) -> tuple[list[dict], list[int]]:
    reports: list[int] = []

    def tell(what: str, done: int, total: int) -> None:
        reports.append(done)

    generation.run(StageContext(workspace, params, STYLE, variant, progress=tell))
    manifest = workspace.samples(STYLE, variant) / MANIFEST_FILE
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
    save_random_lora(workspace.model(STYLE, "nsync") / LORA_FILE, params, seed=2)
    other, reports = draw(workspace, params, "nsync")
    assert reports == [0, 2, 3]
    assert all(a["sha256"] != b["sha256"] for a, b in zip(first, other, strict=True))


def test_a_lora_that_is_not_trained_yet_is_named(workspace: Workspace, params: Params) -> None:
    (workspace.model(STYLE, "nsync") / LORA_FILE).unlink()
    with pytest.raises(MissingArtifactError, match="run the training stage of 'nsync' first"):
        draw(workspace, params, "nsync")
    with pytest.raises(ParamsError, match="variant 'nsinc' is not in params"):
        draw(workspace, params, "nsinc")


def test_pictures_on_demand(workspace: Workspace, params: Params, tmp_path: Path) -> None:
    """Two prompts at two seeds; the base's picture is the stage's, up to rounding."""
    rows, _ = draw(workspace, params, BASE)
    seeds = [rows[0]["seed"], 7]
    prompts = [rows[0]["caption"], " a fish "]
    folder = tmp_path / "mine"
    drawn = generate(workspace, params, prompts, seeds, folder, style=STYLE, variant=BASE)
    names = [f"001_{seeds[0]}.png", "001_7.png", f"002_{seeds[0]}.png", "002_7.png"]
    assert [file.name for file in drawn.files] == names
    stored = workspace.samples(STYLE, BASE) / rows[0]["file"]
    with Image.open(drawn.files[0]) as mine, Image.open(stored) as theirs:
        difference = np.asarray(mine).astype(int) - np.asarray(theirs).astype(int)
    assert np.abs(difference).max() <= 1
    with Image.open(drawn.contact_sheet) as sheet:
        assert sheet.width == sheet.height  # two seeds across, two prompts down


def test_a_lora_file_is_the_variants_lora_and_scale_0_is_the_base(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    lora = workspace.model(STYLE, "nsync") / LORA_FILE
    prompt = ["a tree in the style of sks"]

    def pixels(name: str, prompts: list[str], **how: object) -> np.ndarray:
        drawn = generate(workspace, params, prompts, [5], tmp_path / name, **how)  # type: ignore[arg-type]
        with Image.open(drawn.files[0]) as image:
            return np.asarray(image).astype(int)

    variant = pixels("variant", ["a tree"], style=STYLE, variant="nsync")
    by_file = pixels("file", prompt, lora=lora)
    plain = pixels("plain", prompt)
    off = pixels("off", prompt, lora=lora, lora_scale=0.0)
    assert np.array_equal(by_file, variant)
    assert np.abs(off - plain).max() <= 1
    assert np.abs(by_file - plain).max() > 1


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"prompts": []}, UserError, "at least one prompt"),
        ({"prompts": ["a tree", " "]}, UserError, "not empty"),
        ({"seeds": []}, UserError, "one seed"),
        ({"seeds": [-1]}, UserError, "a seed is a whole number"),
        ({"variant": "nsync"}, UserError, "say which style"),
        ({"style": "inc", "variant": "nsync"}, ParamsError, "style 'inc' is not in params"),
        ({"style": STYLE, "variant": "x"}, ParamsError, "variant 'x' is not in params"),
        ({"lora": Path("/nowhere.safetensors")}, MissingArtifactError, "is not there"),
        ({"lora": Path("/x"), "variant": "nsync"}, UserError, "not both"),
    ],
)
def test_what_does_not_go_together_is_explained(
    workspace: Workspace,
    params: Params,
    tmp_path: Path,
    how: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    arguments: dict[str, object] = {"prompts": ["a tree"], "seeds": [1]} | how
    with pytest.raises(error, match=message):
        generate(workspace, params, folder=tmp_path / "mine", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "mine").exists()


def test_nothing_is_overwritten(workspace: Workspace, params: Params, tmp_path: Path) -> None:
    (tmp_path / "001_1.png").write_bytes(b"mine")
    before = folder_bytes(tmp_path)
    with pytest.raises(UserError, match=r"001_1\.png is there already"):
        generate(workspace, params, ["a tree"], [1], tmp_path)
    assert folder_bytes(tmp_path) == before
