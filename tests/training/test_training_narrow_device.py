"""Where a device has no float64, what is summed in float64 is summed on the CPU: to the bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nsync_pipeline.contrast.config import ContrastConfig, UpdateRule
from nsync_pipeline.contrast.host import in_float64
from nsync_pipeline.contrast.refiner import Refinement, Refiner
from nsync_pipeline.families.family import Family
from nsync_pipeline.metrics.extractor import in_batches
from nsync_pipeline.training.batches import sample_losses
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.held_out import HeldOutLoss
from tests.support.narrow_device import NarrowDevice
from tests.support.tiny_training import examples, family

__all__ = ["examples", "family"]  # fixtures


@pytest.mark.parametrize(
    "ask",
    [
        lambda there: there.double(),
        lambda there: there.to("cpu", torch.float64),
        lambda there: there.sum(dtype=torch.float64),
        lambda there: torch.ones(2, dtype=torch.float64).to(there.device),
        lambda there: torch.zeros(2, dtype=torch.float64, device=there.device),
    ],
)
def test_the_device_refuses_float64(ask: Callable[[Tensor], Tensor]) -> None:
    with NarrowDevice(), pytest.raises(TypeError, match="float64"):
        ask(torch.ones(2).to("mps"))


@pytest.mark.parametrize("rule", ["orthogonal_anchor", "released"])
def test_a_refinement_is_the_cpu_s(rule: UpdateRule) -> None:
    """Two steps, with what is kept from the first, and weights of two shapes."""
    weights = {"blocks.0.lora_A": torch.zeros(3, 4), "blocks.1.lora_A": torch.zeros(5)}
    estimate: Any = "running_mean" if rule == "orthogonal_anchor" else "step"
    contrast = ContrastConfig(negative_estimate=estimate, scope="block")

    def refined(send: Callable[[Tensor], Tensor]) -> Refinement:
        refiner = Refiner({k: torch.nn.Parameter(w) for k, w in weights.items()}, rule, contrast)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            gradients = {
                branch: [send(torch.randn(w.shape, generator=generator)) for w in weights.values()]
                for branch in refiner.branches
            }
            found = refiner.of_branches(gradients)
        return found

    here = refined(lambda tensor: tensor)
    with NarrowDevice():
        there = refined(lambda tensor: tensor.to("mps"))
        assert {part.device.type for part in there.gradient} == {"mps"}
        back = [part.cpu() for part in there.gradient]
    assert all(map(torch.equal, here.gradient, back))
    assert (here.diagnostics, here.norms) == (there.diagnostics, there.norms)


def test_losses_and_features_are_the_cpu_s() -> None:
    numbers = torch.randn(3, 2)
    with NarrowDevice():
        there = numbers.to("mps")
        assert in_float64(there).equal(numbers.double())
        features = in_batches([0, 1, 2], 2, lambda rows: numbers[list(rows)].to("mps"))
    assert torch.from_numpy(features).equal(numbers.double())


def test_a_held_out_loss_is_the_cpu_s(
    family: Family, examples: EncodedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, module = HeldOutLoss(family, examples, seed=0), "nsync_pipeline.training.held_out"
    here = loss()
    monkeypatch.setattr(f"{module}.sample_losses", lambda *of: sample_losses(*of).to("mps"))
    with NarrowDevice():
        assert loss() == here
