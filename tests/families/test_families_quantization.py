"""A denoiser whose frozen weights are quantized, or wait on the CPU: as if its weights were so."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import ADAPTER
from nsync_pipeline.adaptation.trainables import add_trainables
from nsync_pipeline.contrast.branch_copies import BranchCopies
from nsync_pipeline.contrast.branch_gradients import MicroBatch, gradients_fused, gradients_in_turn
from nsync_pipeline.contrast.config import NEGATIVE, POSITIVE
from nsync_pipeline.errors import BaseModelError, TrainingError
from nsync_pipeline.families import placement
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.loading import find_base, load_family
from nsync_pipeline.families.placement import Placement
from tests.support.plain_steps import KINDS
from tests.support.tiny_style import tiny_family

needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao: an extra")
LORA = LoraSettings(rank=2, targets=("attention.to_q", "feed_forward.w1"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS["z_image"].save(tmp_path_factory.mktemp("z_image"))


def quantized(folder: Path, kind: Any, **changes: Any) -> Any:
    config = BaseModelConfig(
        name=str(folder), device="cpu", resolution=32, quantization=kind, **changes
    )
    return load_family(config)


def predicted(family: Any, embeds: Any) -> torch.Tensor:
    noise = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(family.predict(noise, torch.tensor([900.0, 200.0]), embeds))


@needs_torchao
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_quantized_denoiser_predicts_as_its_rounded_weights_do(folder: Path, kind: str) -> None:
    """With a LoRA on it, too; and each rounded number is near the whole one."""
    family, plain = quantized(folder, kind), tiny_family(folder)
    embeds = plain.encode_prompts(["a red house", ""])
    own = dict(plain.denoiser.named_parameters())
    rounded = 0
    for name, weight in family.denoiser.named_parameters():
        if type(weight.data) is not torch.Tensor:
            rounded += 1
            whole = own[name].detach().clone()
            with torch.no_grad():
                own[name].copy_(weight.data.dequantize())
            largest = float(whole.abs().max())
            assert 0 < float((own[name] - whole).abs().max()) < largest / 12
    assert rounded > 10
    for one in (family, plain):
        trained = add_trainables(one, LORA, None, torch.Generator().manual_seed(1))
        with torch.no_grad():
            for weight in trained.weights:
                weight.add_(0.1)
        assert {weight.dtype for weight in trained.weights} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(
            predicted(family, embeds), predicted(plain, embeds), rtol=1e-4, atol=1e-4
        )


@needs_torchao
def test_branches_agree_fused_and_in_turn_on_a_quantized_base(folder: Path) -> None:
    family = quantized(folder, "int8")
    trained = add_trainables(family, LORA, None, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for weight in trained.weights:
            weight.add_(0.1)
    embeds = family.encode_prompts(["a red house", "", "the sun", "a fish"])

    def losses(branches: Any) -> torch.Tensor:
        rows = [2 * int(branch == NEGATIVE) + row for branch in branches for row in (0, 1)]
        noise = torch.randn(4, *family.latent_shape, generator=torch.Generator().manual_seed(0))
        times = torch.tensor([900.0, 200.0, 500.0, 50.0])
        index = torch.tensor(rows)
        found = family.predict(noise[index], times[index], embeds.rows(index))
        return torch.as_tensor(found.square().flatten(1).mean(1).view(len(branches), -1).mean(1))

    branches = (POSITIVE, NEGATIVE)
    parts = [MicroBatch(losses, 1.0)]
    in_turn = gradients_in_turn(trained.weights, branches, parts)
    copies = BranchCopies([family.denoiser], trained.weights, ADAPTER)
    fused = gradients_fused(copies, branches, parts)
    for branch in branches:
        for ours, theirs in zip(in_turn.gradients[branch], fused.gradients[branch], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_blocks_that_wait_elsewhere_change_no_number(folder: Path) -> None:
    config = BaseModelConfig(name=str(folder), device="cpu")
    family, found = find_base(config)
    place = Placement(torch.device("cpu"), torch.float32, group_offload=True)
    waiting: Any = family(found, 32, place)
    plain: Any = tiny_family(folder)
    embeds = plain.encode_prompts(["a red house", ""])
    for one in (waiting, plain):
        add_trainables(one, LORA, None, torch.Generator().manual_seed(1))
        one.denoiser.enable_gradient_checkpointing()
    losses = [predicted(one, embeds).square().mean() for one in (waiting, plain)]
    gradients = []
    for one, loss in zip((waiting, plain), losses, strict=True):
        own = [w for w in one.denoiser.parameters() if w.requires_grad]
        gradients.append(torch.autograd.grad(loss, own, materialize_grads=True))
    assert torch.equal(*losses)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


@needs_torchao
@pytest.mark.parametrize("change", [{"dora": True}, {"start": "pissa"}])
def test_what_looks_at_the_weights_is_refused_on_rounded_ones(
    folder: Path, change: dict[str, Any]
) -> None:
    settings = LORA.model_copy(update=change)
    with pytest.raises(TrainingError, match=r"base_model\.quantization int8 has rounded"):
        add_trainables(quantized(folder, "int8"), settings, None, torch.Generator())


def test_what_cannot_be_quantized_here_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda name: name)
    with pytest.raises(BaseModelError, match=r"nf4 is for CUDA.*goes to cpu: set it to int8"):
        quantized(folder, "nf4")
    with pytest.raises(BaseModelError, match="goes with no dtype float64"):
        quantized(folder, "int8", dtype="float64")
    monkeypatch.setattr(placement, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match="fp8 needs torchao, which is not installed"):
        quantized(folder, "fp8")
