"""Pictures on demand: by the base, a variant or a LoRA's file, at any strength and size."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from nsync_pipeline.adaptation.lora_file import read_lora_file
from nsync_pipeline.adaptation.other_forms import kohya_tensors
from nsync_pipeline.adaptation.safetensors_file import read_safetensors, write_safetensors
from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.errors import (
    BaseModelError,
    MissingArtifactError,
    ParamsError,
    PictureError,
    UserError,
)
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.generate.model import drawing_model
from nsync_pipeline.generate.pictures import (
    GeneratedPictures,
    Manner,
    draw_again,
    generate,
    read_settings,
)
from nsync_pipeline.generate.prompts import AskedPrompt, asked_prompts, read_prompts
from nsync_pipeline.params import Params
from nsync_pipeline.workspace import BASE, LORA_FILE, Workspace
from tests.support.drawing_workspace import (
    STYLE,
    drawing_params,
    folder_bytes,
    save_random_lora,
)
from tests.support.tiny_models import save_tiny_stable_diffusion_xl

TREE = [AskedPrompt("a tree", (5,))]
STYLED = [AskedPrompt("a tree in the style of sks", (5,))]


@pytest.fixture
def params(tiny_base: Path) -> Params:
    return drawing_params(tiny_base)


@pytest.fixture
def workspace(tmp_path: Path, params: Params) -> Workspace:
    """With a LoRA that is not zero, on the denoiser and the text encoder."""
    workspace = Workspace(tmp_path / "workspace")
    save_random_lora(workspace.model(STYLE, "nsync", 0) / LORA_FILE, params)
    return workspace


def drawn(
    workspace: Workspace,
    params: Params,
    folder: Path,
    prompts: list[AskedPrompt] = TREE,
    manner: Manner | None = None,
    **model: Any,
) -> GeneratedPictures:
    place = drawing_model(
        workspace, params, model.get("style"), model.get("variant"), model.get("lora")
    )
    return generate(params, place, prompts, folder, manner=manner)


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


def test_each_prompt_is_drawn_at_each_seed(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    prompts = asked_prompts(["a red house", " a fish "], [11, 7])
    made = drawn(workspace, params, tmp_path / "mine", prompts, style=STYLE, variant=BASE)
    names = ["001_11.png", "001_7.png", "002_11.png", "002_7.png"]
    assert [file.name for file in made.files] == names
    assert len({pixels(file).tobytes() for file in made.files}) == 4
    with Image.open(made.contact_sheet) as sheet:
        assert sheet.width > 2 * 256
        assert sheet.height > 2 * 256


def test_prompts_may_have_seeds_of_their_own(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    prompts = [AskedPrompt("a tree", (1,)), AskedPrompt("a fish", (2, 3))]
    made = drawn(workspace, params, tmp_path / "mine", prompts)
    assert [file.name for file in made.files] == ["001_1.png", "002_2.png", "002_3.png"]
    with Image.open(made.contact_sheet) as sheet:
        assert sheet.height > 3 * 256  # a picture a row


def test_any_form_of_a_lora_draws_the_variants_picture(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    """The variant, its own file, diffusers' keys without our metadata, and kohya's."""
    own = workspace.model(STYLE, "nsync", 0) / LORA_FILE
    file = read_safetensors(own)
    metadata = {"format": "pt", "lora_adapter_metadata": file.metadata["lora_adapter_metadata"]}
    write_safetensors(tmp_path / "diffusers.safetensors", file.tensors, metadata)
    kohya = kohya_tensors(*read_lora_file(own), "stable-diffusion-v1")
    write_safetensors(tmp_path / "kohya.safetensors", kohya, {"format": "pt"})
    variant = drawn(workspace, params, tmp_path / "variant", style=STYLE, variant="nsync")
    plain = drawn(workspace, params, tmp_path / "plain", STYLED)
    expected = pixels(variant.files[0])
    assert np.abs(pixels(plain.files[0]) - expected).max() > 1
    for lora in (own, tmp_path / "diffusers.safetensors", tmp_path / "kohya.safetensors"):
        found = drawn(workspace, params, tmp_path / f"by_{lora.stem}", STYLED, lora=lora)
        assert np.abs(pixels(found.files[0]) - expected).max() <= 1, lora
        styled = drawn(workspace, params, tmp_path / f"s_{lora.stem}", lora=lora, style=STYLE)
        assert np.abs(pixels(styled.files[0]) - expected).max() <= 1, lora


def test_a_lora_of_another_model_is_refused(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    xl = params.model_copy(
        update={
            "base_model": params.base_model.model_copy(
                update={"name": str(save_tiny_stable_diffusion_xl(tmp_path / "xl"))}
            )
        }
    )
    kohya = kohya_tensors(
        *read_lora_file(workspace.model(STYLE, "nsync", 0) / LORA_FILE), "stable-diffusion-v1"
    )
    write_safetensors(tmp_path / "kohya.safetensors", kohya, {"format": "pt"})
    save_file({"something.weight": torch.zeros(2)}, tmp_path / "no_lora.safetensors")
    with pytest.raises(BaseModelError, match=r"kohya\.safetensors does not fit"):
        drawn(workspace, xl, tmp_path / "mine", lora=tmp_path / "kohya.safetensors")
    with pytest.raises(BaseModelError, match=r"no_lora\.safetensors"):
        drawn(workspace, params, tmp_path / "mine", lora=tmp_path / "no_lora.safetensors")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("dora", [False, True])
def test_a_sweep_goes_from_the_base_to_the_variant(
    workspace: Workspace, params: Params, tmp_path: Path, dora: bool
) -> None:
    save_random_lora(workspace.model(STYLE, "nsync", 0) / LORA_FILE, params, dora)
    manner = Manner(params.generation.sampler, strengths=(0.0, 0.5, 1.0))
    made = drawn(workspace, params, tmp_path / "sweep", manner=manner, style=STYLE, variant="nsync")
    names = ["001_5_x0.png", "001_5_x0.5.png", "001_5_x1.png"]
    assert [file.name for file in made.files] == names
    off, half, full = (pixels(file) for file in made.files)
    base = drawn(workspace, params, tmp_path / "base", STYLED)
    variant = drawn(workspace, params, tmp_path / "variant", style=STYLE, variant="nsync")
    assert np.abs(off - pixels(base.files[0])).max() <= 1
    assert np.abs(full - pixels(variant.files[0])).max() <= 1
    assert np.abs(half - off).max() > 1
    assert np.abs(half - full).max() > 1


def test_size_and_sampler_are_the_persons_own(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    sampler = params.generation.sampler.model_copy(update={"steps": 1, "scheduler": "euler"})
    made = drawn(workspace, params, tmp_path / "wide", manner=Manner(sampler, (32, 64)))
    assert pixels(made.files[0]).shape == (32, 64, 3)
    told = read_settings(made.files[0])
    assert (told.height, told.width, told.steps, told.scheduler) == (32, 64, 1, "euler")


def test_a_picture_says_all_it_was_drawn_from(
    workspace: Workspace, params: Params, tmp_path: Path, tiny_base: Path
) -> None:
    made = drawn(workspace, params, tmp_path / "mine", style=STYLE, variant="nsync")
    with Image.open(made.files[0]) as image:
        told = json.loads(image.info["nsync"])
    assert told.pop("base_revision") == load_family(params.base_model).revision
    assert len(told.pop("weights_sha256")) == 64
    assert told == {
        "prompt": "a tree in the style of sks",
        "seed": 5,
        "height": 32,
        "width": 32,
        "scheduler": "dpm",
        "steps": 3,
        "guidance_scale": 4.0,
        "base_model": tiny_base.name,
        "model": "nsync",
        "style": STYLE,
        "strength": 1.0,
    }


def test_a_picture_is_drawn_again_from_its_own_file(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    """One of a sweep, of another size, steps, scheduler and guidance than params.yaml says."""
    sampler = params.generation.sampler.model_copy(update={"steps": 2, "scheduler": "ddim"})
    guidance = GuidanceConfig(form="difference", weight=2.0)
    manner = Manner(sampler, (48, 32), (0.25, 0.75), guidance)
    made = drawn(workspace, params, tmp_path / "one", manner=manner, style=STYLE, variant="nsync")
    picture = made.files[1]
    settings = read_settings(picture)
    assert (settings.guidance_form, settings.guidance_weight) == ("difference", 2.0)
    model = drawing_model(workspace, params, settings.style, settings.model)
    again = draw_again(params, settings, picture, model, tmp_path / "again")
    assert again.same_base
    assert again.largest_difference == 0
    assert read_settings(again.file) == settings
    save_random_lora(workspace.model(STYLE, "nsync", 0) / LORA_FILE, params, dora=True)
    with pytest.raises(UserError, match="its weights are others now"):
        draw_again(params, settings, picture, model, tmp_path / "third")


def test_other_pictures_do_not_say_how_they_were_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "mine.png")
    (tmp_path / "text.png").write_text("no picture")
    size = (40_000).to_bytes(4, "big")  # both sides: more than Pillow opens
    header = b"IHDR" + size + size + bytes([8, 2, 0, 0, 0])
    crc = zlib.crc32(header).to_bytes(4, "big")
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + crc
    (tmp_path / "bomb.png").write_bytes(bomb)
    for name in ("mine.png", "text.png", "missing.png", "bomb.png"):
        with pytest.raises(PictureError, match="does not say how it was drawn"):
            read_settings(tmp_path / name)


SAID = {
    "prompt": "a tree", "seed": 0, "height": 32, "width": 32, "scheduler": "ddim", "steps": 2,
    "guidance_scale": 3.0, "base_model": "x", "base_revision": "y", "model": "nsync",
    "style": STYLE, "weights_sha256": None, "strength": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1}, {"seed": 2**64}, {"height": 0}, {"width": 10**9}, {"strength": 1e308},
        {"strength": float("nan")}, {"steps": "2"},
        {"steps": 0}, {"scheduler": "x"}, {"guidance_scale": float("inf")},
        {"guidance_form": "\x1b[2J"}, {"guidance_weight": float("nan")},
    ],
)  # fmt: skip
def test_a_picture_that_says_what_cannot_be_drawn_is_refused(
    workspace: Workspace, params: Params, tmp_path: Path, change: dict[str, Any]
) -> None:
    """As another version, or anybody, may have written it."""
    info = PngInfo()
    model = drawing_model(workspace, params, STYLE, "nsync")
    info.add_text("nsync", json.dumps(SAID | {"weights_sha256": model.weights_sha256()} | change))
    file = tmp_path / "mine.png"
    Image.new("RGB", (32, 32)).save(file, pnginfo=info)
    with pytest.raises(PictureError):
        draw_again(params, read_settings(file), file, model, tmp_path / "again")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"variant": "nsync"}, UserError, "say which style"),
        ({"style": "inc", "variant": "nsync"}, ParamsError, "style 'inc' is not in params"),
        ({"style": STYLE, "variant": "x"}, ParamsError, "variant 'x' is not in params"),
        ({"lora": Path("/nowhere.safetensors")}, MissingArtifactError, "is not there"),
        ({"lora": Path("/x"), "variant": "nsync"}, UserError, "not both"),
        ({"prompts": []}, UserError, "at least one prompt"),
        ({"manner": "sweep"}, UserError, "the base has no strength"),
        ({"manner": "odd"}, BaseModelError, "32x42 pixels cannot be drawn"),
    ],
)
def test_what_does_not_go_together_is_explained(
    workspace: Workspace,
    params: Params,
    tmp_path: Path,
    how: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    sampler = params.generation.sampler
    manners = {"sweep": Manner(sampler, strengths=(0.0, 1.0)), "odd": Manner(sampler, (32, 42))}
    how = how | ({"manner": manners[how["manner"]]} if "manner" in how else {})
    with pytest.raises(error, match=message):
        drawn(workspace, params, tmp_path / "mine", **how)
    assert not list(tmp_path.glob("mine/*"))


def test_nothing_is_overwritten(workspace: Workspace, params: Params, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "001_5.png").write_bytes(b"mine")
    before = folder_bytes(folder)
    with pytest.raises(UserError, match=r"001_5\.png is there already"):
        drawn(workspace, params, folder)
    assert folder_bytes(folder) == before


def test_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red house\n\n  a fish  \n", encoding="utf-8")
    assert read_prompts(file, [1, 2, 1]) == [
        AskedPrompt("a red house", (1, 2)), AskedPrompt("a fish", (1, 2)),
    ]  # fmt: skip


def test_prompts_may_come_from_a_pipe() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        pipe.write("a red house\n\na tree\n")
    with os.fdopen(reading):
        asked = read_prompts(Path(f"/dev/fd/{reading}"), [1])
    assert [prompt.text for prompt in asked] == ["a red house", "a tree"]


def test_a_prompt_with_its_seed_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a red house", "seed": 7}\n{"prompt": "a fish"}\n')
    assert read_prompts(file, [1]) == [
        AskedPrompt("a red house", (7,)),
        AskedPrompt("a fish", (1,)),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "\n \n", "has no prompt in it"),
        ("p.jsonl", "a red house\n", "line 1: not JSON"),
        ("p.jsonl", '{"prompt": "a"}\n["b"]\n', 'line 2: an object with a "prompt" is needed'),
        ("p.jsonl", '{"prompt": " "}\n', "line 1: the prompt is empty"),
        ("p.jsonl", '{"prompt": "a", "sed": 1}\n', 'not "sed"'),
        ("p.jsonl", '{"prompt": "a \\ud800"}\n', "line 1: the prompt holds U\\+D800"),
        ("p.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("p.txt", "a red\x1b[2J house\n", "holds U\\+001B"),
        ("p.jsonl", '{"prompt": "a", "seed": "1"}\n', "line 1: a seed is a whole number"),
        ("p.jsonl", '{"prompt": "a", "seed": -1}\n', "line 1: a seed is a whole number"),
    ],
)
def test_a_prompt_file_that_cannot_be_used_is_explained(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / name, [1])


@pytest.mark.parametrize(
    ("texts", "seeds", "message"),
    [
        (["a", " "], [1], "a prompt is empty"),
        (["\ud800"], [1], "a prompt holds U"),
        (["a"], [-1], "--seed"),
        (["a"], [2**63], "--seed"),
    ],
)
def test_prompts_and_seeds_are_checked(texts: list[str], seeds: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        asked_prompts(texts, seeds)
