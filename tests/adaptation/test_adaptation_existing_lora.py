"""A training starts from an existing LoRA of its shape, whoever wrote it, and from no other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import has_lora, remove_lora
from nsync_pipeline.adaptation.lora_file import read_lora_file, save_lora
from nsync_pipeline.adaptation.other_forms import form_for_others
from nsync_pipeline.adaptation.trainables import add_trainables
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.seeding import torch_stream
from tests.support.adapted import moved, predicted
from tests.support.diffusers_pictures import pipeline_of
from tests.support.tiny_models import save_tiny_stable_diffusion_xl
from tests.support.tiny_style import tiny_family

SHAPE: dict[str, Any] = {"rank": 2, "alpha": 6.0, "targets": ("to_q", "conv1")}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"dora": True},
    "lokr": {"kind": "lokr", "factor": 2},
    "loha": {"kind": "loha"},
}


def added(family: Family, folder: Path, **settings: Any) -> TrainedWeights:
    lora = LoraSettings.model_validate(SHAPE | settings)
    return add_trainables(family, lora, None, torch_stream(0, "lora"), folder=folder)


def save_trained_lora(family: Family, folder: Path, **settings: Any) -> Tensor:
    """``old.safetensors`` of weights away from zero; what the family then predicts."""
    moved(added(family, folder, **settings), by=0.2)
    origin = {"base_model": family.name, "base_revision": family.revision}
    save_lora(family, folder / "old.safetensors", origin)
    found = predicted(family)
    remove_lora(family)
    return found


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_it_acts_as_the_file_does_at_any_alpha(
    family: Family, tmp_path: Path, kind: dict[str, Any]
) -> None:
    acted = save_trained_lora(family, tmp_path, **kind)
    trained = added(family, tmp_path, start_from="old.safetensors", **kind)
    assert all(weight.requires_grad for weight in trained.weights)
    assert torch.equal(predicted(family), acted)
    _, tensors = read_lora_file(tmp_path / "old.safetensors")
    for name, weight in zip(trained.names, trained.weights, strict=True):
        assert torch.equal(weight.detach(), tensors[name])
    remove_lora(family)
    absolute = str(tmp_path / "old.safetensors")
    added(family, Path("/nowhere"), start_from=absolute, alpha=2.0, **kind)
    torch.testing.assert_close(predicted(family), acted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_it_may_be_another_programs(
    family: Family, tiny_base: Path, tmp_path: Path, form: str
) -> None:
    """``save_lora_weights`` of diffusers, without our header, and kohya's form."""
    acted = save_trained_lora(family, tmp_path)
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    header, tensors = read_lora_file(old)
    if form == "kohya":
        found = form_for_others(header, tensors, "stable-diffusion-v1")
        assert found is not None
        save_file(found, new)
    else:
        pipeline = pipeline_of(tiny_base)
        pipeline.load_lora_weights(tmp_path, weight_name=old.name, adapter_name="default")
        pipeline.save_lora_weights(
            tmp_path,
            unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
            unet_lora_adapter_metadata={
                "r": 2, "lora_alpha": 6.0, "target_modules": ["to_q", "conv1"],
            },
            weight_name=new.name,
        )  # fmt: skip
    added(family, tmp_path, start_from=new.name)
    torch.testing.assert_close(predicted(family), acted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 4}, r"old\.safetensors has \(2, .* at unet.* set rank, ranks and factor"),
        (
            {"targets": ("to_q",)},
            r"adapts other layers .*it has unet.*conv1.* and \d+ more\): give",
        ),
        ({"targets": ("to_q", "conv1", "to_k")}, r"it lacks unet\..*to_k"),
        ({"kind": "loha"}, r"holds a lora, and training\.lora\.kind is loha"),
        ({"start_from": "none.safetensors"}, r"start_from: .*none\.safetensors is not a file that"),
        ({"start_from": "text.safetensors"}, r"start_from: .*text\.safetensors is damaged"),
        ({"start_from": "page.safetensors"}, r"page\.safetensors is a web page .*download"),
        (
            {"start_from": "strange.safetensors"},
            r"strange\.safetensors does not fit .*it holds unet\.x\.lora_A\.weight, which",
        ),
    ],
)
def test_one_of_another_shape_is_refused_in_a_line(
    family: Family, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    save_trained_lora(family, tmp_path)
    (tmp_path / "text.safetensors").write_text("not a LoRA")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><title>Sign in</title>")
    save_file({"unet.x.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "strange.safetensors")
    with pytest.raises(TrainingError, match=message) as raised:
        added(family, tmp_path, **{"start_from": "old.safetensors"} | settings)
    assert "\n" not in str(raised.value)
    assert not has_lora(family)


def test_one_of_another_base_is_refused(
    family: Family, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """By what it says of itself; another program's, by the layers that do not fit."""
    xl = tiny_family(save_tiny_stable_diffusion_xl(tmp_path_factory.mktemp("xl")))
    save_trained_lora(xl, tmp_path, text_encoder=True, targets=("to_k",))
    with pytest.raises(TrainingError, match=r"was trained on .* and base_model is"):
        added(family, tmp_path, start_from="old.safetensors", targets=("to_k",))
    _, tensors = read_lora_file(tmp_path / "old.safetensors")
    save_file(tensors, tmp_path / "foreign.safetensors")
    with pytest.raises(TrainingError, match=r"foreign\.safetensors does not fit"):
        added(family, tmp_path, start_from="foreign.safetensors", targets=("to_k",))
    assert not has_lora(family)
