"""Every option of a LoRA: what it does, that it changes nothing at first, and that it is saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from pydantic import ValidationError
from safetensors import safe_open
from torch import nn

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import (
    add_lora,
    factors_of,
    lora_layers,
    random_factors,
    remove_lora,
)
from nsync_pipeline.adaptation.lora_file import load_lora, read_lora_file, save_lora
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.workspace import LORA_FILE
from tests.support.adapted import PROMPTS, moved, predicted
from tests.support.diffusers_pictures import our_pictures, pipeline_of, their_pictures
from tests.support.tiny_models import save_tiny_stable_diffusion_3, save_tiny_stable_diffusion_xl
from tests.support.tiny_style import tiny_family

OPTIONS: Mapping[str, dict[str, Any]] = {
    "ranks": {"ranks": {"mid_block.*to_q": 4, "to_k": 1}, "alphas": {"to_v": 1.0}},
    "regular_expression": {"targets": r"down_blocks\..*\.(to_q|conv1)"},
    "rank_stabilized": {"rank": 4, "rank_stabilized": True, "ranks": {"to_k": 2}},
    "dora": {"dora": True},
    "dora_of_convolutions": {"dora": True, "targets": ("conv1", "to_q")},
    "pissa": {"start": "pissa", "alpha": 1.0},
    "pissa_of_convolutions": {"start": "pissa", "targets": ("conv1", "to_q"), "ranks": {"to_q": 1}},
    "olora": {"start": "olora", "alpha": 2.0},
    "text_encoder": {"text_encoder": True, "ranks": {"self_attn.q_proj": 3}},
    "text_encoder_pissa": {"text_encoder": True, "start": "pissa", "alpha": 1.0},
    "text_encoder_dora": {
        "text_encoder": True,
        "text_encoder_targets": r".*\.(v_proj|fc1)",
        "dora": True,
    },
}


def lora(family: Family, settings: LoraSettings, seed: int = 0) -> TrainedWeights:
    return add_lora(family, settings, torch_stream(seed, "lora"))


def settings_of(options: Mapping[str, Any]) -> LoraSettings:
    return LoraSettings.model_validate({"rank": 2, "alpha": 6.0} | dict(options))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_fresh_lora_of_any_kind_is_the_base(family: Family, options: dict[str, Any]) -> None:
    """Within rounding: a start that is not zero is added and taken off again."""
    before = predicted(family)
    trained = lora(family, settings_of(options))
    torch.testing.assert_close(predicted(family), before, rtol=0, atol=2e-5)
    for parameter in (*family.denoiser.parameters(), *family.text_encoders[0].parameters()):
        assert parameter.requires_grad == any(parameter is weight for weight in trained.weights)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_any_kind_comes_back_from_its_file_here_and_in_diffusers(
    family: Family, tiny_base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """The same prediction; the same pictures, within one of 255 levels, as the pipeline rounds."""
    before = predicted(family)
    moved(lora(family, settings_of(options)), by=0.1)
    adapted = predicted(family)
    assert float((adapted - before).abs().max()) > 1e-2
    save_lora(family, tmp_path / LORA_FILE, {})
    remove_lora(family)
    assert torch.equal(predicted(family), before)
    load_lora(family, tmp_path / LORA_FILE)
    torch.testing.assert_close(predicted(family), adapted, rtol=0, atol=2e-5)

    pipeline = pipeline_of(tiny_base)
    pipeline.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    ours, theirs = our_pictures(family, PROMPTS), their_pictures(pipeline, family, PROMPTS)
    assert np.abs(ours - theirs).max() <= 1
    remove_lora(family)
    assert np.abs(our_pictures(family, PROMPTS) - theirs).max() > 1


@pytest.mark.parametrize(
    ("save_tiny", "denoiser"),
    [(save_tiny_stable_diffusion_xl, "unet"), (save_tiny_stable_diffusion_3, "transformer")],
)
def test_both_clip_encoders_load_in_diffusers(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, save_tiny: Any, denoiser: str
) -> None:
    base = save_tiny(tmp_path_factory.mktemp("base"))
    family = tiny_family(base)
    trained = lora(family, settings_of({"text_encoder": True}))
    components = {name.split(".")[0] for name in trained.names}
    assert components == {denoiser, "text_encoder", "text_encoder_2"}
    assert {g for n, g in zip(trained.names, trained.groups, strict=True) if "text" in n} == {
        "text_encoder"
    }
    moved(trained, by=0.1)
    save_lora(family, tmp_path / LORA_FILE, {})
    remove_lora(family)
    load_lora(family, tmp_path / LORA_FILE)
    pipeline = pipeline_of(base)
    pipeline.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    difference = our_pictures(family, PROMPTS) - their_pictures(pipeline, family, PROMPTS)
    assert np.abs(difference).max() <= 1


def test_keys_of_text_encoders_are_those_of_older_versions_too(
    family: Family, tmp_path: Path
) -> None:
    lora(family, settings_of({"text_encoder": True}))
    save_lora(family, tmp_path / LORA_FILE, {})
    with safe_open(tmp_path / LORA_FILE, framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith("text_encoder.")]  # noqa: SIM118
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    assert f"{layer}.lora_A.weight" in keys


def test_ranks_and_alphas_go_by_pattern(family: Family, tmp_path: Path) -> None:
    options = {"ranks": {"mid_block.*to_q": 4, "to_k": 1}, "alphas": {"to_k": 3.0}}
    lora(family, settings_of(options))
    layers = dict(lora_layers(family.denoiser))
    shapes = {name: layer.lora_A["default"].weight.shape[0] for name, layer in layers.items()}
    scales = {name: layer.scaling["default"] for name, layer in layers.items()}
    assert {shapes[name] for name in layers if name.endswith("to_k")} == {1}
    assert {shapes[n] for n in layers if n.startswith("mid_block") and n.endswith("to_q")} == {4}
    assert {shapes[n] for n in layers if n.endswith(("to_v", "to_out.0"))} == {2}
    assert {scales[name] for name in layers if name.endswith("to_k")} == {3.0}
    assert {scales[n] for n in layers if n.endswith("to_v")} == {3.0}  # 6 / 2
    save_lora(family, tmp_path / LORA_FILE, {})
    header, _ = read_lora_file(tmp_path / LORA_FILE)
    assert {name: header.adapters["unet"].scale(name) for name in layers} == scales


def test_a_pattern_that_no_layer_has_is_an_error(family: Family) -> None:
    with pytest.raises(TrainingError, match=r"training\.lora\.ranks: 'to_x'"):
        lora(family, settings_of({"ranks": {"to_x": 4}}))
    assert not list(lora_layers(family.denoiser))
    with pytest.raises(TrainingError, match=r"training\.lora\.text_encoder_targets: nothing"):
        lora(family, settings_of({"text_encoder": True, "text_encoder_targets": ("nothing",)}))
    assert not list(lora_layers(family.denoiser))
    with pytest.raises(TrainingError, match="diffusers could not load it: add one of q_proj"):
        lora(family, settings_of({"text_encoder": True, "text_encoder_targets": ("fc1",)}))
    assert not list(lora_layers(family.text_encoders[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "to_(q"}, "not a regular expression"),
        ({"targets": ()}, "names no layer"),
        ({"ranks": {"to_q": 0}}, "a rank is from 1"),
        ({"alphas": {"to_q": 0.0}}, "an alpha is above 0"),
        ({"dora": True, "start": "pissa"}, "dora goes with"),
        ({"start": "orthogonal", "rank": 3}, "needs even ranks"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings_of(options)


def test_rank_stabilized_scale_is_alpha_over_the_root_of_the_rank(family: Family) -> None:
    lora(family, settings_of({"rank": 4, "alpha": 6.0, "rank_stabilized": True}))
    assert {layer.scaling["default"] for _, layer in lora_layers(family.denoiser)} == {3.0}


def test_a_start_too_large_for_a_layer_is_named(family: Family) -> None:
    with pytest.raises(TrainingError, match=r"training\.lora\.start: unet\..*too small"):
        lora(family, settings_of({"rank": 64, "start": "pissa"}))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_from_the_weight_are_pefts(start: Any) -> None:
    """PEFT takes ``s B A`` out of the weight itself; the product is the same, signs apart."""
    torch.manual_seed(0)
    linear = nn.Linear(12, 9)
    model = nn.ModuleDict({"layer": linear})
    weight = linear.weight.detach().clone()
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["layer"], init_lora_weights=start)
    inject_adapter_in_model(config, model)
    layer: Any = model["layer"]
    theirs = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    ours = factors_of(start, weight, 3, 2.0)
    torch.testing.assert_close(ours.up @ ours.down, theirs, rtol=0, atol=1e-5)
    left = layer.base_layer.weight + 2.0 * theirs
    torch.testing.assert_close(left, weight, rtol=0, atol=1e-5)


def test_pissa_starts_from_the_best_approximation() -> None:
    """``W = diag(3, 2, 1)``, scale 2: ``2 B A`` of rank 2 is ``diag(3, 2, 0)``."""
    found = factors_of("pissa", torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2, 2.0)
    torch.testing.assert_close(2 * found.up @ found.down, torch.diag(torch.tensor([3.0, 2.0, 0.0])))
    torch.testing.assert_close(found.down.norm(dim=1), torch.tensor([1.5, 1.0]).sqrt())


def test_gaussian_and_orthogonal_starts() -> None:
    """Gaussian: A's deviation is 1 / rank. Orthogonal: neither factor is zero, and B A is."""
    gaussian = random_factors("gaussian", 5, 4000, 4, torch.Generator().manual_seed(0))
    assert float(gaussian.down.std()) == pytest.approx(0.25, rel=0.02)
    assert not gaussian.up.any()
    orthogonal = random_factors("orthogonal", 5, 40, 4, torch.Generator().manual_seed(0))
    assert float(orthogonal.up.norm()) > 0.1
    torch.testing.assert_close(
        orthogonal.up @ orthogonal.down, torch.zeros(5, 40), atol=1e-6, rtol=0
    )


def test_the_denoisers_start_does_not_depend_on_the_text_encoders(family: Family) -> None:
    alone = {n: w.clone() for n, w in zip(*_named(lora(family, settings_of({}))), strict=True)}
    remove_lora(family)
    both = dict(zip(*_named(lora(family, settings_of({"text_encoder": True}))), strict=True))
    assert len(both) > len(alone)
    assert all(torch.equal(both[name], weight) for name, weight in alone.items())


def _named(trained: TrainedWeights) -> tuple[tuple[str, ...], tuple[nn.Parameter, ...]]:
    return trained.names, trained.weights
