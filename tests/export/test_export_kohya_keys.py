"""Other tools' forms of a LoRA: diffusers reads each back, and draws the same pictures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora, lora_layers, remove_lora
from nsync_pipeline.adaptation.lora_file import (
    AdapterHeader,
    LoraHeader,
    load_lora,
    read_lora_file,
    save_lora,
)
from nsync_pipeline.adaptation.other_forms import (
    NoFormError,
    form_for_others,
    kohya_tensors,
    scaled_tensors,
    whole_changes,
)
from nsync_pipeline.adaptation.safetensors_file import write_safetensors
from nsync_pipeline.adaptation.trained_weights import adapted_models_of
from nsync_pipeline.errors import UserError
from nsync_pipeline.families.family import Family, architecture_of
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.workspace import LORA_FILE
from tests.support import diffusers_pictures
from tests.support.diffusers_pictures import our_pictures, pipeline_of, their_pictures
from tests.support.tiny_models import save_tiny_stable_diffusion_3, save_tiny_stable_diffusion_xl
from tests.support.tiny_style import tiny_family

PROMPTS = ["a red house in the style of sks", "a tree"]
EVERY_LAYER = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
    "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv",
    "conv_in", "conv_out", "time_embedding.linear_1",
)  # fmt: skip
OPTIONS: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "every_layer": {"targets": EVERY_LAYER},
    "ranks_and_alphas": {"ranks": {"to_k": 1}, "alphas": {"to_v": 1.0}},
    "rank_stabilized": {"rank": 4, "rank_stabilized": True},
    "pissa": {"start": "pissa", "alpha": 1.0},
    "text_encoder": {"text_encoder": True, "ranks": {"q_proj": 3}, "alphas": {"v_proj": 9.0}},
    "text_encoder_mlp": {"text_encoder": True, "text_encoder_targets": ("fc1", "fc2", "q_proj")},
}


def trained(family: Family, options: Mapping[str, Any], folder: Path) -> tuple[LoraHeader, Any]:
    """A LoRA with weights of noise, on the family and in its file, and what the file holds."""
    settings = LoraSettings.model_validate({"rank": 2, "alpha": 6.0} | dict(options))
    weights = add_lora(family, settings, torch_stream(0, "lora"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights.weights:
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    save_lora(family, folder / LORA_FILE, {})
    # Textual rounding aside, what is loaded is what was trained.
    remove_lora(family)
    load_lora(family, folder / LORA_FILE)
    return read_lora_file(folder / LORA_FILE)


def drawn_by_diffusers(base: Path, family: Family, tensors: Any, folder: Path) -> np.ndarray:
    write_safetensors(folder / "shared.safetensors", tensors, {"format": "pt"})
    pipeline = pipeline_of(base)
    pipeline.load_lora_weights(folder, weight_name="shared.safetensors")
    return their_pictures(pipeline, family, PROMPTS)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_kohya_form_draws_the_same_pictures(
    tiny_base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Within one of 255 levels, as the pipeline rounds; without the LoRA they are others."""
    family = tiny_family(tiny_base)
    bare = our_pictures(family, PROMPTS)
    tensors = kohya_tensors(*trained(family, options, tmp_path), architecture_of(family))
    theirs = drawn_by_diffusers(tiny_base, family, tensors, tmp_path)
    assert np.abs(our_pictures(family, PROMPTS) - theirs).max() <= 1
    assert np.abs(bare - theirs).max() > 1


@pytest.mark.parametrize("options", [{}, {"text_encoder": True, "targets": EVERY_LAYER}])
def test_the_kohya_form_of_xl_draws_the_same_pictures(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, options: dict[str, Any]
) -> None:
    base = save_tiny_stable_diffusion_xl(tmp_path_factory.mktemp("xl"))
    family = tiny_family(base)
    bare = our_pictures(family, PROMPTS)
    tensors = kohya_tensors(*trained(family, options, tmp_path), architecture_of(family))
    components = {"lora_unet"} | ({"lora_te1", "lora_te2"} if options else set())
    assert {"_".join(key.split("_")[:2]) for key in tensors} == components
    theirs = drawn_by_diffusers(base, family, tensors, tmp_path)
    assert np.abs(our_pictures(family, PROMPTS) - theirs).max() <= 1
    assert np.abs(bare - theirs).max() > 1


@pytest.mark.parametrize("options", [{}, {"text_encoder": True, "ranks": {"to_k": 1}}])
def test_the_form_of_a_transformer_needs_no_alpha(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    """ComfyUI takes the scale of diffusers' keys as 1, and so does diffusers without metadata."""
    own = diffusers_pictures.SAMPLER.model_copy(update={"scheduler": "model"})
    monkeypatch.setattr(diffusers_pictures, "SAMPLER", own)
    base = save_tiny_stable_diffusion_3(tmp_path_factory.mktemp("sd3"))
    family = tiny_family(base)
    bare = our_pictures(family, PROMPTS)
    tensors = scaled_tensors(*trained(family, options, tmp_path))
    assert all(key.startswith(("transformer.", "text_encoder")) for key in tensors)
    theirs = drawn_by_diffusers(base, family, tensors, tmp_path)
    assert np.abs(our_pictures(family, PROMPTS) - theirs).max() <= 1
    assert np.abs(bare - theirs).max() > 1


def test_keys_are_kohyas() -> None:
    """By hand: dots are underscores, alpha is a number of its own, 6 / 2 = 3 is the scale."""
    adapter = AdapterHeader(2, 6.0, ("mid.to_out.0", "up.conv1"), {}, {"up.conv1": 3.0}, dora=False)
    down, up = torch.randn(2, 5), torch.randn(7, 2)
    conv_down, conv_up = torch.randn(2, 5, 3, 3), torch.randn(7, 2, 1, 1)
    tensors = {
        "unet.mid.to_out.0.lora_A.weight": down,
        "unet.mid.to_out.0.lora_B.weight": up,
        "unet.up.conv1.lora_A.weight": conv_down,
        "unet.up.conv1.lora_B.weight": conv_up,
    }
    found = kohya_tensors(LoraHeader({"unet": adapter}, {}), tensors, "stable-diffusion-v1")
    assert set(found) == {
        f"lora_unet_{layer}.{part}"
        for layer in ("mid_to_out_0", "up_conv1")
        for part in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert torch.equal(found["lora_unet_mid_to_out_0.lora_up.weight"], up)
    assert found["lora_unet_mid_to_out_0.alpha"].item() == 6.0
    # Its own alpha is 3, half the usual: the half is in B.
    assert found["lora_unet_up_conv1.alpha"].item() == 6.0
    assert torch.equal(found["lora_unet_up_conv1.lora_down.weight"], conv_down)
    torch.testing.assert_close(found["lora_unet_up_conv1.lora_up.weight"], conv_up * 0.5)


Apply = Callable[[Mapping[str, Tensor], str, Tensor], Tensor]


def by_comfyui(file: Mapping[str, Tensor], key: str, weight: Tensor) -> Tensor:
    """How ComfyUI changes a weight, of its ``comfy/lora.py`` and ``weight_adapter``."""
    if f"{key}.diff" in file:
        return weight + file[f"{key}.diff"].float()
    up, down = file[f"{key}.lora_up.weight"], file[f"{key}.lora_down.weight"]
    scale = file[f"{key}.alpha"].item() / len(down)
    changed = weight + scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    if f"{key}.dora_scale" in file:
        lengths = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
        changed = changed * file[f"{key}.dora_scale"] / lengths
    return changed


def by_a1111(file: Mapping[str, Tensor], key: str, weight: Tensor) -> Tensor:
    """How A1111 does, and Forge: lengths are of the changed weight's columns."""
    if f"{key}.diff" in file:
        return weight + file[f"{key}.diff"].float()
    up, down = file[f"{key}.lora_up.weight"], file[f"{key}.lora_down.weight"]
    scale = file[f"{key}.alpha"].item() / len(down)
    changed = weight + scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    if f"{key}.dora_scale" in file:
        columns = changed.transpose(0, 1).flatten(1).norm(dim=1)
        lengths = columns.reshape(-1, *[1] * (weight.dim() - 1)).transpose(0, 1)
        changed = changed * file[f"{key}.dora_scale"] / lengths
    return changed


@torch.no_grad()
@pytest.mark.parametrize("read", [by_comfyui, by_a1111])
@pytest.mark.parametrize("trained_for", [0, 1])
def test_a_dora_acts_in_other_programs_as_it_was_trained(
    tiny_base: Path, tmp_path: Path, read: Apply, trained_for: int
) -> None:
    """To float16 of the change; one that was not trained changes nothing."""
    family = tiny_family(tiny_base)
    options = {"dora": True, "targets": ("to_q", "conv1"), "text_encoder": True}
    if trained_for:
        trained(family, options, tmp_path)
    else:
        settings = LoraSettings.model_validate({"rank": 2, **options})
        add_lora(family, settings, torch_stream(0, "lora"))
    models = adapted_models_of(family)
    layers = [(m.key(name), layer) for m in models for name, layer in lora_layers(m.model)]
    before = [layer.get_base_layer().weight.clone() for _, layer in layers]
    file = whole_changes(family, architecture_of(family))
    assert {key.rpartition(".")[2] for key in file} == {"diff"}
    seen = set()
    for (name, layer), weight in zip(layers, before, strict=True):
        component, _, inner = name.partition(".")
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[component]
        found = read(file, f"{prefix}_{inner.replace('.', '_')}", weight)
        meant = layer.get_base_layer().weight  # PEFT's own, merged
        change = (meant - weight).norm()
        assert (found - meant).norm() <= 1e-3 * change
        assert (change > 0) == bool(trained_for)
        seen.add((component, weight.dim()))
    assert seen == {("unet", 2), ("unet", 4), ("text_encoder", 2)}


def test_a_dora_has_no_form_with_lengths() -> None:
    adapter = AdapterHeader(1, 1.0, ("attn.to_q",), {}, {}, dora=True)
    for component in ("transformer", "unet"):
        layer = f"{component}.attn.to_q"
        tensors = {
            f"{layer}.lora_A.weight": torch.zeros(1, 3),
            f"{layer}.lora_B.weight": torch.zeros(3, 1),
            f"{layer}.lora_magnitude_vector.weight": torch.ones(3),
        }
        header = LoraHeader({component: adapter}, {})
        assert form_for_others(header, tensors, "stable-diffusion-v1") is None


def test_kohyas_form_has_no_transformer() -> None:
    adapter = AdapterHeader(1, 1.0, ("attn.to_q",), {}, {}, dora=False)
    layer = "transformer.attn.to_q"
    tensors = {
        f"{layer}.lora_A.weight": torch.zeros(1, 3),
        f"{layer}.lora_B.weight": torch.zeros(3, 1),
    }
    with pytest.raises(UserError, match="kohya's form has no transformer"):
        kohya_tensors(LoraHeader({"transformer": adapter}, {}), tensors, "stable-diffusion-3")


def test_layers_that_comfyui_would_leave_out_are_told() -> None:
    """By diffusers' names it finds the blocks' layers, and not all of the others."""
    adapter = AdapterHeader(1, 1.0, ("transformer_blocks.0.attn.to_q", "proj_in"), {}, {})
    header = LoraHeader({"transformer": adapter}, {})
    with pytest.raises(NoFormError, match=r"1 of the 2 adapted layers, the first is proj_in"):
        form_for_others(header, {}, "flux-2-klein")
    assert form_for_others(header, {}, "qwen-image") == {}
