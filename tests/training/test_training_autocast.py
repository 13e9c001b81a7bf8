"""Products in bfloat16 beside float32, and what stays float32."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora, remove_lora
from nsync_pipeline.determinism import deterministic_algorithms
from nsync_pipeline.families.family import Family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.loop import train
from tests.support.tiny_training import LORA, examples, family

__all__ = ["examples", "family"]  # fixtures


@pytest.mark.parametrize("branches", ["fused", "in_turn"])
def test_the_trained_layers_compute_in_the_bases_type(
    family: Family,
    examples: EncodedSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    branches: str,
) -> None:
    """Weights and gradients are float32; losses and gradients are about those of float32."""
    types: set[torch.dtype] = set()
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: types.add((found := bmm(a, b)).dtype) or found)

    def first_step(autocast: bool | str) -> StepRecord:
        types.clear()
        changes: dict[str, Any] = {"autocast": autocast, "branches": branches, "steps": 1}
        settings = TrainingConfig.model_validate({"batch_size": 2, "lora": LORA} | changes)
        remove_lora(family)
        lora = add_lora(family, LoraSettings.model_validate(LORA), torch_stream(0, "lora"))
        folder = CheckpointFolder(tmp_path / str(len(list(tmp_path.iterdir()))), {})
        (record,) = train(family, lora, examples, settings, 0, folder).history
        assert {weight.dtype for weight in lora.weights} == {torch.float32}
        return record

    plain = first_step(autocast=False)
    assert torch.bfloat16 not in types
    half = first_step(autocast=True)
    assert branches == "in_turn" or torch.bfloat16 in types
    for name in ("loss_positive", "loss_negative", "norm_positive", "norm_negative"):
        expected = getattr(plain, name)
        assert getattr(half, name) != expected
        assert getattr(half, name) == pytest.approx(expected, rel=0.03)
    for has, like in ((True, half), (False, plain)):
        capabilities = {"avx512_bf16": has, "amx_bf16": False}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)  # noqa: B023
        assert first_step(autocast="auto").loss_positive == like.loss_positive


def test_what_determinism_costs_can_be_had_back() -> None:
    before = torch.get_float32_matmul_precision()
    with deterministic_algorithms():
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_float32_matmul_precision() == before
    with deterministic_algorithms(wanted=False, tf32=True):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    assert not torch.backends.cudnn.benchmark
