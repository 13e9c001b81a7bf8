"""Single-file checkpoints: told apart by their keys, loaded exactly, refused with a reason."""

import argparse
import json
import logging
import os
import pickle
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.checkpoint_file import kind_of_checkpoint
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.latent_diffusion import LatentDiffusion
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.families.prompt_counting import tokenizer_of
from tests.support.original_layout import save_original_3, save_original_v1, save_original_xl
from tests.support.tiny_models import (
    save_tiny_stable_diffusion,
    save_tiny_stable_diffusion_3,
    save_tiny_stable_diffusion_xl,
)
from tests.support.tiny_style import tiny_family

FAMILIES: dict[str, tuple[Callable[..., Path], Callable[[Path, Path], Path]]] = {
    "stable_diffusion": (save_tiny_stable_diffusion, save_original_v1),
    "stable_diffusion_xl": (save_tiny_stable_diffusion_xl, save_original_xl),
    "stable_diffusion_3": (save_tiny_stable_diffusion_3, save_original_3),
    "stable_diffusion_3_5": (
        partial(save_tiny_stable_diffusion_3, second_attention=True),
        save_original_3,
    ),
}


def of_file(file: Path, settings: Path | None, **changes: object) -> Family:
    config = None if settings is None else str(settings)
    return load_family(BaseModelConfig(name=str(file), config=config, device="cpu", **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved pipeline a family; CLIP-L's projection of 3 and 3.5 is one, as in their release."""
    folder = tmp_path_factory.mktemp("pipelines")
    saved = {name: save(folder / name) for name, (save, _) in FAMILIES.items()}
    for name in ("stable_diffusion_3", "stable_diffusion_3_5"):
        weights = saved[name] / "text_encoder" / "model.safetensors"
        tensors = load_file(weights)
        tensors["text_projection.weight"] = torch.eye(16)
        save_file(tensors, weights, metadata={"format": "pt"})
    return saved


@pytest.fixture(scope="module")
def files(pipelines: dict[str, Path]) -> dict[str, Path]:
    return {
        name: write(pipelines[name], pipelines[name].parent / f"{name}.safetensors")
        for name, (_, write) in FAMILIES.items()
    }


@pytest.fixture(scope="module")
def settings(pipelines: dict[str, Path]) -> dict[str, Path]:
    """The pipelines without any weights."""
    found = {}
    for name, folder in pipelines.items():
        found[name] = folder.parent / f"{name}_settings"
        shutil.copytree(folder, found[name], ignore=shutil.ignore_patterns("*.safetensors"))
    return found


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_checkpoint_is_the_pipeline_it_was_made_of(
    name: str, pipelines: dict[str, Path], files: dict[str, Path], settings: dict[str, Path]
) -> None:
    """Weight by weight to the last bit, and in what it encodes and predicts."""
    from_file, from_folder = of_file(files[name], settings[name]), tiny_family(pipelines[name])
    assert type(from_file) is type(from_folder)
    assert isinstance(from_file, LatentDiffusion)
    assert isinstance(from_folder, LatentDiffusion)
    ours, theirs = ((f.denoiser, f.vae, *f.text_encoders) for f in (from_file, from_folder))
    for found, expected in zip(ours, theirs, strict=True):
        assert not found.training
        assert not any(weight.requires_grad for weight in found.parameters())
        wanted = expected.state_dict()
        assert found.state_dict().keys() == wanted.keys()
        for key, weight in found.state_dict().items():
            assert torch.equal(weight, wanted[key]), key
    embeds = from_folder.encode_prompts(["a red house"])
    torch.testing.assert_close(from_file.encode_prompts(["a red house"]).tokens, embeds.tokens)
    latents = torch.ones(1, *from_folder.latent_shape)
    timestep = from_folder.noise_schedule.timesteps[-1:]
    with torch.no_grad():
        predicted = [
            family.predict(latents, timestep, embeds) for family in (from_file, from_folder)
        ]
    torch.testing.assert_close(*predicted)
    assert from_file.revision != from_folder.revision


def test_the_revision_is_of_the_file_and_its_settings(
    files: dict[str, Path], settings: dict[str, Path], tmp_path: Path
) -> None:
    file, folder = files["stable_diffusion"], settings["stable_diffusion"]
    first = of_file(file, folder).revision
    moved = Path(shutil.copy(file, tmp_path / "moved.safetensors"))
    assert of_file(moved, folder).revision == first
    tensors = load_file(file)
    tensors["model.diffusion_model.out.2.bias"] += 1
    save_file(tensors, moved)
    assert of_file(moved, folder).revision != first
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    scheduler = copy / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("epsilon", "v_prediction"))
    assert of_file(file, copy).revision != first


def test_tokens_are_counted_by_the_settings(
    files: dict[str, Path], settings: dict[str, Path]
) -> None:
    name = "stable_diffusion_xl"
    config = BaseModelConfig(name=str(files[name]), config=str(settings[name]))
    assert tokenizer_of(config).prompt_tokens("a red house") == 3


def test_t5_may_be_left_out(
    settings: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The settings know one, the file has none: as the release without it."""
    bare = save_tiny_stable_diffusion_3(tmp_path / "bare", t5=False)
    file = save_original_3(bare, tmp_path / "bare.safetensors")
    with caplog.at_level(logging.WARNING, "nsync_pipeline"):
        family = of_file(file, settings["stable_diffusion_3"])
    assert "has no text_encoder_3" in caplog.text
    assert len(family.text_encoders) == 2


def test_a_pickled_checkpoint_is_read_where_it_is_allowed(
    files: dict[str, Path], settings: dict[str, Path], tmp_path: Path
) -> None:
    pickled = tmp_path / "model.ckpt"
    torch.save({"state_dict": load_file(files["stable_diffusion"]), "step": 7}, pickled)
    folder = settings["stable_diffusion"]
    with pytest.raises(BaseModelError, match=r"not a \.safetensors file.*allow_pickle"):
        of_file(pickled, folder)
    family = of_file(pickled, folder, allow_pickle=True)
    expected = of_file(files["stable_diffusion"], folder)
    for key, weight in expected.denoiser.state_dict().items():
        assert torch.equal(family.denoiser.state_dict()[key], weight)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.folder),))


def test_code_in_a_pickle_never_runs(settings: dict[str, Path], tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": Evil(tmp_path / "evil")}}, tmp_path / "evil.ckpt")
    with pytest.raises(BaseModelError, match=r"holds an object of posix\.mkdir beside its tensors"):
        of_file(tmp_path / "evil.ckpt", settings["stable_diffusion"], allow_pickle=True)
    assert not (tmp_path / "evil").exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)  # the danger is real
    assert (tmp_path / "evil").exists()


def test_pickled_weights_in_a_folder_are_read_where_it_is_allowed(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(pipelines["stable_diffusion"], tmp_path / "copy"))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(BaseModelError, match=r"unet has only pickled weights \(diff"):
        tiny_family(copy)
    family = load_family(BaseModelConfig(name=str(copy), device="cpu", allow_pickle=True))
    expected = tiny_family(pipelines["stable_diffusion"])
    for key, weight in expected.denoiser.state_dict().items():
        assert torch.equal(family.denoiser.state_dict()[key], weight)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["unet.down_blocks.0.lora_A.weight"], "is a LoRA or the like"),
        (["lora_unet_down_blocks_0.lora_down.weight"], "is a LoRA or the like"),
        (["control_model.input_blocks.0.0.weight"], "is a ControlNet"),
        (["double_blocks.0.img_attn.norm.key_norm.scale"], "one of FLUX's kin"),
        (["conditioner.embedders.0.model.text_projection"], "is the refiner"),
        (["down_blocks.0.resnets.0.conv1.weight"], "one component in diffusers' layout"),
        (["joint_blocks.0.x_block.attn.qkv.weight"], "the denoiser of Stable Diffusion 3 alone"),
        (["weight"], "of an unknown kind.*Stable Diffusion 1, 2, XL"),
    ],
)
def test_what_is_no_base_model_is_named(tmp_path: Path, keys: list[str], message: str) -> None:
    file = tmp_path / "file.safetensors"
    save_file({key: torch.zeros(1) for key in keys}, file)
    with pytest.raises(BaseModelError, match=message):
        of_file(file, None)


def test_second_versions_need_their_settings(tmp_path: Path) -> None:
    """The file of a 2.x is the same whether it predicts the noise or v."""
    file = tmp_path / "v2.safetensors"
    keys = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.ln_final.bias")
    save_file({key: torch.zeros(1) for key in keys}, file)
    assert kind_of_checkpoint(file, False).family == "stable_diffusion"
    with pytest.raises(BaseModelError, match=r"base_model\.config is needed .*Stable Diffusion 2"):
        of_file(file, None)


@pytest.mark.parametrize(
    ("key", "hub_id"),
    [
        ("joint_blocks.0.x_block.attn.qkv.weight", "3-medium-diffusers"),
        ("joint_blocks.37.x_block.mlp.fc1.weight", "3.5-large"),
        ("joint_blocks.0.x_block.attn2.qkv.weight", "3.5-medium"),
    ],
)
def test_third_versions_are_told_apart(tmp_path: Path, key: str, hub_id: str) -> None:
    save_file({f"model.diffusion_model.{key}": torch.zeros(1)}, tmp_path / "file.safetensors")
    kind = kind_of_checkpoint(tmp_path / "file.safetensors", False)
    assert kind.settings == f"stabilityai/stable-diffusion-{hub_id}"
    assert kind.absent == ("text_encoder_3", "tokenizer_3")


def test_settings_of_another_family_are_refused(
    files: dict[str, Path], settings: dict[str, Path]
) -> None:
    with pytest.raises(
        BaseModelError, match=r"StableDiffusionXLPipeline.*family stable_diffusion:"
    ):
        of_file(files["stable_diffusion"], settings["stable_diffusion_xl"])


def test_settings_that_are_nowhere_are_named(files: dict[str, Path]) -> None:
    with pytest.raises(BaseModelError, match=r"base_model\.config: '/nowhere' is neither"):
        of_file(files["stable_diffusion"], Path("/nowhere"))


@pytest.mark.parametrize(
    ("prefix", "component"),
    [
        ("model.diffusion_model.input_blocks.1", "unet"),
        ("first_stage_model.decoder", "vae"),
        ("cond_stage_model.transformer.text_model.encoder", "text_encoder"),
    ],
)
def test_missing_weights_are_not_made_up(
    files: dict[str, Path],
    settings: dict[str, Path],
    tmp_path: Path,
    prefix: str,
    component: str,
) -> None:
    tensors = load_file(files["stable_diffusion"])
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}
    assert len(kept) < len(tensors)
    save_file(kept, tmp_path / "part.safetensors")
    message = rf"part\.safetensors lacks (\d+ )?weights of its {component}"
    with pytest.raises(BaseModelError, match=message):
        of_file(tmp_path / "part.safetensors", settings["stable_diffusion"])


def test_a_truncated_file_is_named(
    files: dict[str, Path], settings: dict[str, Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(files["stable_diffusion"].read_bytes()[:-1000])
    with pytest.raises(BaseModelError, match=r"cut\.safetensors is damaged"):
        of_file(cut, settings["stable_diffusion"])


@pytest.mark.parametrize("name", ["model.safetensors", "/nowhere/model.ckpt", "a/b.safetensors"])
def test_a_file_that_is_not_there_is_not_sought_on_the_hub(name: str) -> None:
    with pytest.raises(BaseModelError, match="is not a folder that exists, nor a file"):
        load_family(BaseModelConfig(name=name, device="cpu"))


def test_a_folder_with_one_checkpoint_in_it_says_what_to_name(
    files: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copy(files["stable_diffusion"], tmp_path / "mine.safetensors")
    with pytest.raises(BaseModelError, match=r"name the file itself: .*mine\.safetensors"):
        tiny_family(tmp_path)


def test_an_index_of_no_family_lists_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "PixArtPipeline"}))
    with pytest.raises(
        BaseModelError, match=r"is a PixArtPipeline.*taken are .*Stable Diffusion 3"
    ):
        tiny_family(tmp_path)


@pytest.mark.parametrize(
    ("name", "prefix", "lacks"),
    [
        ("stable_diffusion", "first_stage_model.", "VAE"),
        ("stable_diffusion", "cond_stage_model.", "text encoder"),
        ("stable_diffusion_xl", "first_stage_model.", "VAE"),
        ("stable_diffusion_xl", "conditioner.", "first text encoder and second text encoder"),
        ("stable_diffusion_3", "first_stage_model.", "VAE"),
        ("stable_diffusion_3", "text_encoders.", "first text encoder and second text encoder"),
        ("stable_diffusion_3", "text_encoders.clip_g.", "second text encoder"),
        ("stable_diffusion", "model.diffusion_model.", None),
    ],
)
def test_a_checkpoint_without_a_part_is_told_which(
    files: dict[str, Path], settings: dict[str, Path], tmp_path: Path, name: str, prefix: str,
    lacks: str | None,
) -> None:  # fmt: skip
    tensors = load_file(files[name])
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}
    save_file(kept, tmp_path / "part.safetensors")
    message = "of an unknown kind" if lacks is None else f"family {name}, without its {lacks}:"
    with pytest.raises(BaseModelError, match=message):
        of_file(tmp_path / "part.safetensors", settings[name])


@pytest.mark.parametrize("wrapper", ["model.", "module.model.", "_forward_module."])
def test_keys_behind_a_wrapper_are_read(
    files: dict[str, Path], settings: dict[str, Path], tmp_path: Path, wrapper: str
) -> None:
    tensors = load_file(files["stable_diffusion"])
    save_file({wrapper + key: t for key, t in tensors.items()}, tmp_path / "a.safetensors")
    family = of_file(tmp_path / "a.safetensors", settings["stable_diffusion"])
    expected = of_file(files["stable_diffusion"], settings["stable_diffusion"])
    for key, weight in expected.denoiser.state_dict().items():
        assert torch.equal(family.denoiser.state_dict()[key], weight)


@pytest.mark.parametrize("name", ["a.sft", "a.SAFETENSORS", "a.ckpt", "a"])
def test_a_file_is_what_it_holds_whatever_its_name(
    files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    kind = kind_of_checkpoint(Path(shutil.copy(files["stable_diffusion"], tmp_path / name)), False)
    assert (kind.family, kind.lacks) == ("stable_diffusion", ())
    torch.save(load_file(files["stable_diffusion"]), tmp_path / name)
    with pytest.raises(BaseModelError, match="is pickled, not a "):
        kind_of_checkpoint(tmp_path / name, False)
    assert kind_of_checkpoint(tmp_path / name, True) == kind


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"GGUF\3\0\0\0", "is a GGUF file"),
        (b"\x89PNG\r\n\x1a\n", "is damaged, or not a checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_what_lies_in_a_checkpoints_place_is_called_what_it_is(
    tmp_path: Path, name: str, start: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(start)
    with pytest.raises(BaseModelError, match=said):
        kind_of_checkpoint(tmp_path / name, True)


@settings_of_hypothesis(max_examples=60, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_any_bytes_are_a_checkpoint_or_a_reason(data: st.DataObject) -> None:
    """Whole ones with a few bytes changed, cut, or nothing of one; pickles are only looked at."""
    whole = data.draw(st.sampled_from([save({"v_pred": torch.ones(2)}), pickle.dumps({"a": 1}, 2)]))
    content = bytearray(data.draw(st.just(whole) | st.binary(max_size=40)))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)))):
        content[at : at + 1] = bytes([byte])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, data.draw(st.sampled_from(["a.safetensors", "a.ckpt"])))
        file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        with pytest.raises(BaseModelError) as refused:
            kind_of_checkpoint(file, data.draw(st.booleans()))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 800


@pytest.mark.parametrize(("channels", "task"), [(9, "inpainting"), (8, "InstructPix2Pix")])
def test_a_model_that_is_given_a_picture_too_is_refused(
    files: dict[str, Path], tmp_path: Path, channels: int, task: str
) -> None:
    tensors = load_file(files["stable_diffusion"])
    key = "model.diffusion_model.input_blocks.0.0.weight"
    tensors[key] = torch.zeros(tensors[key].shape[0], channels, 3, 3)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BaseModelError, match=f"is a model for {task}"):
        kind_of_checkpoint(tmp_path / "a.safetensors", False)


class ModelCheckpoint:
    """As PyTorch Lightning's, which is not installed."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Lightning writes beside the weights."""
    module = types.ModuleType(ModelCheckpoint.__module__)
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, ModelCheckpoint.__module__, module)
    callback = ModelCheckpoint()
    callback.best = np.float64(0.25)  # type: ignore[attr-defined]
    return {
        "callbacks": {ModelCheckpoint: {"best": np.float32(1.5)}},
        "made": callback,
        "scores": np.ones(3),
    }


@pytest.mark.parametrize("nested", ["state_dict", "model", "module"])
def test_what_a_trainer_left_beside_the_weights_is_passed_over(
    files: dict[str, Path],
    settings: dict[str, Path],
    tmp_path: Path,
    lightning: dict[str, Any],
    nested: str,
) -> None:
    tensors = load_file(files["stable_diffusion"])
    options = {"args": argparse.Namespace(lr=1e-4), "file": tmp_path}
    torch.save({nested: tensors, **lightning, **options}, tmp_path / "a.ckpt")
    family = of_file(tmp_path / "a.ckpt", settings["stable_diffusion"], allow_pickle=True)
    expected = of_file(files["stable_diffusion"], settings["stable_diffusion"])
    for key, weight in expected.denoiser.state_dict().items():
        assert torch.equal(family.denoiser.state_dict()[key], weight)


def marked(file: Path, to: Path, *markers: str, **metadata: str) -> Path:
    tensors = load_file(file) | {name: torch.zeros(0) for name in markers}
    save_file(tensors, to, metadata={f"modelspec.{k}": v for k, v in metadata.items()} or None)
    return to


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_a_file_that_says_it_predicts_v_is_trained_so(
    files: dict[str, Path], settings: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """The settings say epsilon; the file knows better, in its markers or its metadata."""
    plain = of_file(files[name], settings[name]).noise_schedule
    assert plain.prediction_type == "epsilon"
    by_marker = of_file(marked(files[name], tmp_path / "a.safetensors", "v_pred"), settings[name])
    file = marked(files[name], tmp_path / "b.safetensors", prediction_type="V-Prediction")
    by_metadata = of_file(file, settings[name])
    file = marked(files[name], tmp_path / "c.safetensors", prediction_type="", predict_key="v")
    by_comfyui = of_file(file, settings[name])
    for family in (by_marker, by_metadata, by_comfyui):
        assert family.noise_schedule.prediction_type == "v_prediction"
        assert family.scheduler.config.prediction_type == "v_prediction"
        assert torch.equal(family.noise_schedule.signal, plain.signal)


def test_a_file_with_a_zero_terminal_snr_is_trained_and_drawn_so(
    files: dict[str, Path], settings: dict[str, Path], tmp_path: Path
) -> None:
    file = marked(files["stable_diffusion_xl"], tmp_path / "a.safetensors", "v_pred", "ztsnr")
    family = of_file(file, settings["stable_diffusion_xl"])
    assert family.noise_schedule.prediction_type == "v_prediction"
    assert family.noise_schedule.signal[-1] == 0.0
    assert family.noise_schedule.signal[0] > 0.99
    assert family.scheduler.config.rescale_betas_zero_snr
    assert family.scheduler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize(
    ("markers", "message"),
    [
        (("edm_mean", "edm_std"), "EDM's noise levels"),
        (("edm_vpred.sigma_max",), "EDM's noise levels"),
        (("ztsnr",), r"not as predicting v \(v_pred\)"),
    ],
)
def test_a_file_trained_on_something_else_is_refused(
    files: dict[str, Path],
    settings: dict[str, Path],
    tmp_path: Path,
    markers: tuple[str, ...],
    message: str,
) -> None:
    file = marked(files["stable_diffusion_xl"], tmp_path / "a.safetensors", *markers)
    with pytest.raises(BaseModelError, match=message):
        of_file(file, settings["stable_diffusion_xl"])


def test_settings_whose_scheduler_cannot_do_what_the_file_says_are_refused(
    files: dict[str, Path], settings: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(settings["stable_diffusion_xl"], tmp_path / "settings"))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "PNDMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    file = marked(files["stable_diffusion_xl"], tmp_path / "a.safetensors", "v_pred", "ztsnr")
    with pytest.raises(BaseModelError, match=r"PNDMScheduler.*knows no rescale_betas_zero_snr"):
        of_file(file, folder)
