"""A LoRA goes to a file and comes back, by this pipeline and by diffusers."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora, has_lora, remove_lora
from nsync_pipeline.adaptation.lora_file import (
    load_lora,
    read_lora_file,
    save_lora,
    write_lora_file,
)
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.errors import BaseModelError, MissingArtifactError, TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.workspace import LORA_FILE
from tests.support.adapted import moved, predicted

SETTINGS = LoraSettings(rank=2, alpha=6.0)
"""A scale of 3, so that a lost alpha shows."""

CONVOLUTIONS = LoraSettings(rank=2, alpha=6.0, targets=("conv1", "conv_out", "to_k"))

ORIGIN = {"base_model": "tiny", "base_revision": "sha256:0", "update_rule": "orthogonal"}


def trained(family: Family, settings: LoraSettings = SETTINGS) -> TrainedWeights:
    """A LoRA whose factors are all away from zero."""
    return moved(add_lora(family, settings, torch_stream(0, "lora")), by=0.2)


def test_a_fresh_lora_changes_nothing(family: Family) -> None:
    before = predicted(family)
    lora = add_lora(family, SETTINGS, torch_stream(0, "lora"))
    assert torch.equal(predicted(family), before)
    assert all(weight.dtype == torch.float32 and weight.requires_grad for weight in lora.weights)
    trainable = [p for p in family.denoiser.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(weight) for weight in lora.weights}


def test_the_start_depends_on_the_generator_alone(family: Family) -> None:
    torch.manual_seed(1)
    first = [w.clone() for w in add_lora(family, SETTINGS, torch_stream(0, "lora")).weights]
    remove_lora(family)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = add_lora(family, SETTINGS, torch_stream(0, "lora")).weights
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    remove_lora(family)
    third = add_lora(family, SETTINGS, torch_stream(1, "lora")).weights
    assert not all(torch.equal(a, b) for a, b in zip(first, third, strict=True))


def test_fresh_factors_are_within_one_over_the_root_of_the_fan_in(family: Family) -> None:
    lora = add_lora(family, SETTINGS, torch_stream(0, "lora"))
    for name, weight in zip(lora.names, lora.weights, strict=True):
        bound = weight.shape[1] ** -0.5 if name.endswith("lora_A.weight") else 0.0
        largest = float(weight.detach().abs().max())
        assert largest <= bound
        assert bound == 0.0 or largest > bound / 2


def test_targets_are_the_familys_own_unless_given(family: Family) -> None:
    names = add_lora(family, SETTINGS, torch_stream(0, "lora")).names
    assert any("ff.net.2" in name for name in names)
    remove_lora(family)
    chosen = LoraSettings(rank=2, alpha=2.0, targets=("to_k",))
    names = add_lora(family, chosen, torch_stream(0, "lora")).names
    assert names
    assert all(".to_k.lora_" in name for name in names)


def test_targets_that_are_not_there_are_an_error_that_names_them(family: Family) -> None:
    settings = LoraSettings(rank=2, alpha=2.0, targets=("no_such_layer",))
    with pytest.raises(TrainingError, match=r"training\.lora\.targets: no_such_layer"):
        add_lora(family, settings, torch_stream(0, "lora"))


@pytest.mark.parametrize("settings", [SETTINGS, CONVOLUTIONS])
def test_a_saved_lora_comes_back_the_same(
    family: Family, tmp_path: Path, settings: LoraSettings
) -> None:
    base = predicted(family)
    trained(family, settings)
    adapted = predicted(family)
    save_lora(family, tmp_path / LORA_FILE, ORIGIN)
    remove_lora(family)
    assert torch.equal(predicted(family), base)
    assert not has_lora(family)
    load_lora(family, tmp_path / LORA_FILE)
    assert torch.equal(predicted(family), adapted)
    assert float((adapted - base).abs().max()) > 1e-3
    assert not any(parameter.requires_grad for parameter in family.denoiser.parameters())


@pytest.mark.parametrize("settings", [SETTINGS, CONVOLUTIONS])
def test_diffusers_loads_it_with_its_alpha(
    family: Family, tiny_base: Path, tmp_path: Path, settings: LoraSettings
) -> None:
    trained(family, settings)
    adapted = predicted(family)
    save_lora(family, tmp_path / LORA_FILE, ORIGIN)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    remove_lora(family)
    family.denoiser, own = pipeline.unet, family.denoiser
    try:
        assert torch.equal(predicted(family), adapted)
    finally:
        family.denoiser = own


def test_it_has_the_keys_diffusers_itself_writes(family: Family, tmp_path: Path) -> None:
    from peft.utils import get_peft_model_state_dict

    trained(family)
    save_lora(family, tmp_path / "ours.safetensors", ORIGIN)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(family.denoiser),
        weight_name="theirs.safetensors",
    )
    with (
        safe_open(tmp_path / "ours.safetensors", framework="pt") as ours,
        safe_open(tmp_path / "theirs.safetensors", framework="pt") as theirs,
    ):
        assert set(ours.keys()) == set(theirs.keys())
        for key in theirs.keys():  # noqa: SIM118 - not a dict
            assert torch.equal(ours.get_tensor(key), theirs.get_tensor(key))


def test_the_same_lora_has_the_same_bytes(family: Family, tmp_path: Path) -> None:
    trained(family)
    save_lora(family, tmp_path / "first.safetensors", ORIGIN)
    save_lora(family, tmp_path / "second.safetensors", dict(reversed(ORIGIN.items())))
    assert (tmp_path / "first.safetensors").read_bytes() == (
        tmp_path / "second.safetensors"
    ).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "first.safetensors",
        "second.safetensors",
    ]


def test_the_header_says_where_it_comes_from(family: Family, tmp_path: Path) -> None:
    trained(family)
    save_lora(family, tmp_path / LORA_FILE, ORIGIN)
    with safe_open(tmp_path / LORA_FILE, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["nsync"]) == ORIGIN
    adapter = json.loads(metadata["lora_adapter_metadata"])
    assert adapter["unet.r"] == 2
    assert adapter["unet.lora_alpha"] == 6.0
    header, tensors = read_lora_file(tmp_path / LORA_FILE)
    assert header.origin == ORIGIN
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


def test_a_second_lora_is_refused(family: Family, tmp_path: Path) -> None:
    trained(family)
    save_lora(family, tmp_path / LORA_FILE, ORIGIN)
    with pytest.raises(BaseModelError, match="holds a LoRA already"):
        load_lora(family, tmp_path / LORA_FILE)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign", "missing"])
def test_what_is_not_our_lora_is_an_error_that_names_the_file(
    family: Family, tmp_path: Path, damage: str
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / LORA_FILE
    trained(family)
    save_lora(family, path, ORIGIN)
    remove_lora(family)
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a LoRA")
    elif damage == "foreign":
        save_file({"unet.x.lora_A.weight": torch.zeros(2, 2)}, path)
    else:
        path.unlink()
    with pytest.raises(MissingArtifactError, match=LORA_FILE):
        load_lora(family, path)
    assert not has_lora(family)


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
def test_a_lora_of_another_base_is_refused_and_leaves_nothing_behind(
    family: Family, tmp_path: Path
) -> None:
    path = tmp_path / LORA_FILE
    base = predicted(family)
    trained(family)
    save_lora(family, path, ORIGIN)
    remove_lora(family)
    header, tensors = read_lora_file(path)
    first = min(tensors)
    write_lora_file(path, tensors | {first: torch.zeros(2, 99)}, header)
    with pytest.raises(BaseModelError, match="does not fit"):
        load_lora(family, path)
    assert not has_lora(family)
    write_lora_file(
        path, {name.replace("unet.", "unet.other."): t for name, t in tensors.items()}, header
    )
    with pytest.raises(BaseModelError, match="does not fit"):
        load_lora(family, path)
    assert not has_lora(family)
    assert torch.equal(predicted(family), base)
