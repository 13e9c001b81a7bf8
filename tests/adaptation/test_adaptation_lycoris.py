"""LoKr and LoHa: what they compute, their files, and what other programs make of these."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora, lora_layers, remove_lora
from nsync_pipeline.adaptation.lora_file import load_lora, read_lora_file, save_lora
from nsync_pipeline.adaptation.other_forms import form_for_others
from nsync_pipeline.adaptation.safetensors_file import write_safetensors
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family, architecture_of
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.workspace import LORA_FILE
from tests.support.adapted import PROMPTS, moved, predicted
from tests.support.diffusers_pictures import our_pictures, pipeline_of, their_pictures
from tests.support.plain_steps import KINDS
from tests.support.tiny_style import tiny_family

OPTIONS: Mapping[str, dict[str, Any]] = {
    "lokr": {"kind": "lokr"},
    "lokr_of_convolutions": {"kind": "lokr", "factor": 4, "targets": ("conv1", "to_q")},
    "lokr_whole": {"kind": "lokr", "ranks": {"to_q": 20}, "alphas": {"to_k": 1.0}},
    "loha": {"kind": "loha", "targets": ("conv1", "to_q"), "ranks": {"to_q": 3}},
}


def lora(family: Family, options: Mapping[str, Any]) -> TrainedWeights:
    settings = LoraSettings.model_validate({"rank": 2, "alpha": 6.0} | dict(options))
    return add_lora(family, settings, torch_stream(0, "lora"))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_fresh_it_is_the_base_and_from_its_file_it_is_what_it_was(
    family: Family, tmp_path: Path, options: dict[str, Any]
) -> None:
    base = predicted(family)
    trained = lora(family, options)
    assert torch.equal(predicted(family), base)
    assert all(w.requires_grad and w.dtype == torch.float32 for w in trained.weights)
    moved(trained, by=0.3)
    adapted = predicted(family)
    assert float((adapted - base).abs().max()) > 1e-2
    save_lora(family, tmp_path / LORA_FILE, {})
    remove_lora(family)
    assert torch.equal(predicted(family), base)
    load_lora(family, tmp_path / LORA_FILE)
    assert torch.equal(predicted(family), adapted)
    assert not any(parameter.requires_grad for parameter in family.denoiser.parameters())


def test_a_start_is_drawn_by_the_generator_alone(family: Family) -> None:
    torch.manual_seed(1)
    first = [w.clone() for w in lora(family, OPTIONS["loha"]).weights]
    remove_lora(family)
    torch.manual_seed(2)
    again = lora(family, OPTIONS["loha"]).weights
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    # Of w1_a (out, r), uniform in 1 / sqrt(r): r is 2 or 3.
    largest = max(float(w.detach().abs().max()) for w in first)
    assert 0.5 < largest <= 2**-0.5


@torch.no_grad()
def by_comfyui(file: Mapping[str, Tensor], key: str, weight: Tensor) -> Tensor:
    """Of its ``comfy/weight_adapter``: the alpha counts where a factor is a product itself."""
    if f"{key}.hada_w1_a" in file:
        w1_b = file[f"{key}.hada_w1_b"]
        scale = file[f"{key}.alpha"].item() / len(w1_b)
        first = file[f"{key}.hada_w1_a"] @ w1_b
        second = file[f"{key}.hada_w2_a"] @ file[f"{key}.hada_w2_b"]
        return weight + scale * (first * second).reshape(weight.shape)
    w1, w2, rank = file[f"{key}.lokr_w1"], file.get(f"{key}.lokr_w2"), None
    if w2 is None:
        rank = len(file[f"{key}.lokr_w2_b"])
        w2 = file[f"{key}.lokr_w2_a"] @ file[f"{key}.lokr_w2_b"]
    if w2.dim() == 4:
        w1 = w1[:, :, None, None]
    scale = 1.0 if rank is None else file[f"{key}.alpha"].item() / rank
    return weight + scale * torch.kron(w1, w2).reshape(weight.shape)


def by_lycoris(file: Mapping[str, Tensor], key: str, weight: Tensor) -> Tensor:
    """Of its ``lycoris/modules``: the scale is taken twice, in the product and in the weight."""
    change = by_comfyui(file, key, weight) - weight
    ranks = [len(file[n]) for n in (f"{key}.lokr_w2_b", f"{key}.hada_w1_b") if n in file]
    return weight + change * (file[f"{key}.alpha"].item() / ranks[0] if ranks else 1.0)


@torch.no_grad()
@pytest.mark.parametrize("read", [by_comfyui, by_lycoris])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_other_programs_change_the_weights_as_it_does(
    tiny_base: Path, tmp_path: Path, options: dict[str, Any], read: Callable[..., Tensor]
) -> None:
    family = tiny_family(tiny_base)
    moved(lora(family, options), by=0.3)
    save_lora(family, tmp_path / LORA_FILE, {})
    header, tensors = read_lora_file(tmp_path / LORA_FILE)
    file = form_for_others(header, tensors, architecture_of(family))
    assert file is not None
    for name, layer in lora_layers(family.denoiser):
        before = layer.get_base_layer().weight.clone()
        layer.merge()
        found = read(file, f"lora_unet_{name.replace('.', '_')}", before)
        change = (layer.get_base_layer().weight - before).norm()
        assert change > 0
        assert (found - layer.get_base_layer().weight).norm() <= 1e-4 * change


def test_diffusers_reads_a_lokr_on_the_denoiser(
    family: Family, tiny_base: Path, tmp_path: Path
) -> None:
    moved(lora(family, OPTIONS["lokr_of_convolutions"]), by=0.3)
    save_lora(family, tmp_path / LORA_FILE, {})
    pipeline = pipeline_of(tiny_base)
    pipeline.unet.load_lora_adapter(tmp_path, weight_name=LORA_FILE, prefix="unet")
    difference = our_pictures(family, PROMPTS) - their_pictures(pipeline, family, PROMPTS)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("name", ["z_image", "flux_2_klein"])
def test_pipelines_that_read_lokrs_draw_the_same_pictures(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, name: str
) -> None:
    """From its own file, and from the one for ComfyUI."""
    kind = KINDS[name]
    base = kind.save(tmp_path_factory.mktemp(name))
    family = tiny_family(base)
    bare = our_pictures(family, PROMPTS)
    moved(lora(family, {"kind": "lokr", "ranks": {"to_out.0": 9}}), by=0.3)
    save_lora(family, tmp_path / LORA_FILE, {})
    header, tensors = read_lora_file(tmp_path / LORA_FILE)
    form = form_for_others(header, tensors, architecture_of(family))
    assert form is not None
    write_safetensors(tmp_path / "others.safetensors", form, {"format": "pt"})
    ours, adapted = our_pictures(family, PROMPTS), predicted(family)
    assert np.abs(ours - bare).max() > 1
    own = family.denoiser
    for file in (LORA_FILE, "others.safetensors"):
        pipeline = pipeline_of(base)
        pipeline.load_lora_weights(tmp_path, weight_name=file)
        family.denoiser = pipeline.transformer
        torch.testing.assert_close(predicted(family), adapted, rtol=0, atol=1e-5)
        family.denoiser = own
        theirs = their_pictures(pipeline, family, PROMPTS, kind.guidance)
        assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "loha", "dora": True}, "dora is not for kind loha"),
        ({"kind": "lokr", "text_encoder": True}, "text_encoder is not for kind lokr"),
        ({"kind": "lokr", "dropout": 0.1}, "dropout is not for kind lokr"),
        ({"kind": "loha", "factor": 4}, "factor is not for kind loha"),
        ({"factor": 4}, "factor is for kind lokr"),
        ({"start_from": "a.safetensors", "start": "pissa"}, "which start pissa would draw"),
    ],
)
def test_settings_that_do_not_go_with_a_kind_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        LoraSettings.model_validate(options)


def test_four_bits_are_refused_and_so_are_layers_of_another_kind(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match=r"training\.lora\.targets: conv_norm_out"):
        lora(family, {"kind": "lokr", "targets": ("conv_norm_out",)})
    monkeypatch.setattr(family, "quantization", "nf4")
    with pytest.raises(TrainingError, match="set it to int8 or fp8"):
        lora(family, {"kind": "lokr"})


def test_the_file_of_a_lora_says_nothing_of_kinds(family: Family, tmp_path: Path) -> None:
    lora(family, {})
    save_lora(family, tmp_path / LORA_FILE, {})
    header, _ = read_lora_file(tmp_path / LORA_FILE)
    assert header.adapters["unet"].kind == "lora"
    assert all(".lora_" in key for key in load_file(tmp_path / LORA_FILE))
