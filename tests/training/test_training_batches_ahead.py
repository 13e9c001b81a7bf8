"""Batches that are made while a GPU works on the step before: forced here, on the CPU."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nsync_pipeline.adaptation.lora import add_lora, remove_lora
from nsync_pipeline.contrast.config import Branch
from nsync_pipeline.families.family import Family, PromptEmbeds
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.batches import BatchMaker, NoisyBatch
from nsync_pipeline.training.batches_ahead import makes_ahead
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.loop import train
from tests.support.tiny_training import LORA, examples, family

__all__ = ["examples", "family"]  # fixtures

WAYS: dict[str, dict[str, Any]] = {
    "fused, two micro-batches": {"accumulation": 2, "update_rule": "orthogonal_anchor"},
    "in turn, every second negative": {
        "branches": "in_turn",
        "contrast": {"negative_every": 2, "negative_estimate": "running_mean"},
    },
    "a loss of its own": {"update_rule": "preference"},
}


@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_batches_that_are_made_ahead_change_no_bit(
    family: Family,
    examples: EncodedSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    """All but those of the first step are made in the thread, each once."""
    base = {"steps": 3, "batch_size": 2, "update_rule": "orthogonal", "learning_rate": 0.01}
    settings = TrainingConfig.model_validate(base | {"lora": LORA} | changes)
    made: dict[tuple[object, ...], list[str]] = {}
    batch = BatchMaker.batch

    def noting(maker: BatchMaker, branch: Branch, step: int, of: Any) -> tuple[NoisyBatch, ...]:
        key = (branch, step, *(triplet.position for triplet in of))
        made.setdefault(key, []).append(threading.current_thread().name)
        return batch(maker, branch, step, of)

    def trained(name: str) -> tuple[list[Tensor], list[StepRecord]]:
        made.clear()
        remove_lora(family)
        lora = add_lora(family, LORA, torch_stream(0, "lora"))
        kept = CheckpointFolder(tmp_path / name, {})
        history = train(family, lora, examples, settings, 0, kept).history
        return [weight.detach().clone() for weight in lora.weights], list(history)

    monkeypatch.setattr(BatchMaker, "batch", noting)
    a, history = trained("in the step")
    asked = set(made)
    assert {name for names in made.values() for name in names} == {"MainThread"}
    monkeypatch.setattr("nsync_pipeline.training.loop.makes_ahead", lambda device: True)
    b, again = trained("ahead")
    assert all(map(torch.equal, a, b))
    assert history == again
    assert set(made) == asked
    for (_, step, *_), names in made.items():
        assert [name.partition("_")[0] for name in names] == ["batches" if step else "MainThread"]


def test_only_for_a_gpu() -> None:
    assert makes_ahead(torch.device("cuda", 1))
    assert not makes_ahead(torch.device("cpu"))


def test_all_tensors_of_a_batch_go_along() -> None:
    numbers = [torch.full((1,), float(n)) for n in range(8)]
    batch = NoisyBatch(
        numbers[0], numbers[1], PromptEmbeds(numbers[2], numbers[3], (1,)), numbers[4],
        numbers[5], numbers[6], other_target=numbers[7], dropout=(3,),
    )  # fmt: skip
    seen: list[float] = []

    def change(tensor: Tensor) -> Tensor:
        seen.append(float(tensor))
        return tensor + 10.0

    moved = batch.each_tensor(change)
    assert sorted(seen) == list(range(8))
    assert isinstance(moved.prompts, PromptEmbeds)
    assert (moved.prompts.tokens, moved.prompts.lengths) == (torch.tensor([12.0]), (1,))
    assert (moved.target, moved.dropout) == (torch.tensor([14.0]), (3,))
    texts = NoisyBatch(numbers[0], numbers[1], ("a boat",), numbers[4])
    assert texts.each_tensor(change).prompts == ("a boat",)
