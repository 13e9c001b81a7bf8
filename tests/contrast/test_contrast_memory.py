"""Where memory runs out, less is held at once, and the gradients stay what they were."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from nsync_pipeline.contrast.branch_gradients import (
    BranchGradients,
    BranchLosses,
    BranchPass,
    MemoryPlan,
    out_of_memory,
)
from nsync_pipeline.contrast.config import POSITIVE, Branch, BranchMode
from nsync_pipeline.errors import TrainingError
from tests.support.tiny_unet import BRANCHES, adapted_unet, largest_relative_error

SAMPLES = tuple(range(5))


def losses_of(unet: nn.Module, fits: int) -> Callable[[Sequence[int]], BranchLosses]:
    """Each sample's loss depends on its number and branch; more than ``fits`` rows do not fit."""

    def of(samples: Sequence[int]) -> BranchLosses:
        def losses(branches: Sequence[Branch]) -> Tensor:
            if len(branches) * len(samples) > fits:
                torch.empty(2**60, dtype=torch.uint8)  # more than any machine has
            rows = [drawn(branch, sample) for branch in branches for sample in samples]
            latents, prompts, targets = (torch.stack(t) for t in zip(*rows, strict=True))
            timesteps = torch.tensor([100 * sample for sample in samples] * len(branches))
            predicted = unet(latents, timesteps, encoder_hidden_states=prompts).sample
            return (predicted - targets).square().view(len(branches), -1).mean(dim=1)

        return losses

    return of


def drawn(branch: Branch, sample: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 * sample + BRANCHES.index(branch))
    return tuple(  # type: ignore[return-value]
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 8, 8), (5, 8), (2, 8, 8))
    )


def taken(fits: int, mode: BranchMode = "auto") -> tuple[BranchGradients, BranchPass]:
    unet, weights = adapted_unet(torch.float64)
    branch_pass = BranchPass([unet], weights, "default", BRANCHES, mode, len(SAMPLES))
    return branch_pass(SAMPLES, losses_of(unet, fits), len(SAMPLES)), branch_pass


@pytest.mark.parametrize(
    ("fits", "plan"),
    [
        (15, MemoryPlan(fused=True, micro_batch=5)),
        (14, MemoryPlan(fused=False, micro_batch=5)),
        (5, MemoryPlan(fused=False, micro_batch=5)),
        (4, MemoryPlan(fused=False, micro_batch=3)),
        (2, MemoryPlan(fused=False, micro_batch=2)),
        (1, MemoryPlan(fused=False, micro_batch=1)),
    ],
)
def test_what_fits_is_found_and_gives_the_same_gradients(fits: int, plan: MemoryPlan) -> None:
    """Three branches of five samples are 15 rows fused; 5 a branch; then 3, 2, 1 a micro-batch."""
    expected, _ = taken(fits=15, mode="in_turn")
    found, branch_pass = taken(fits)
    assert branch_pass.plan == plan
    assert largest_relative_error(found, expected) < 1e-12
    for branch in BRANCHES:
        assert found.losses[branch] == pytest.approx(expected.losses[branch], rel=1e-12)


def test_it_says_so_once_a_change(caplog: pytest.LogCaptureFixture) -> None:
    _, branch_pass = taken(fits=2)
    assert caplog.text.count("out of memory; from now on") == 3
    assert "a pass a branch, 2 samples a pass" in caplog.text
    assert branch_pass.plan.micro_batch == 2


def test_what_does_not_fit_at_all_says_what_to_do() -> None:
    with pytest.raises(TrainingError, match=r"1 samples a pass.*gradient_checkpointing"):
        taken(fits=0)


@pytest.mark.parametrize("mode", ["fused", "in_turn"])
def test_a_mode_that_is_insisted_on_is_not_left(mode: BranchMode) -> None:
    with pytest.raises(TrainingError, match=r"out of memory.*set training\.branches to auto"):
        taken(fits=1, mode=mode)


def test_a_single_branch_has_smaller_micro_batches_at_once() -> None:
    unet, weights = adapted_unet(torch.float64)
    branch_pass = BranchPass([unet], weights, "default", (POSITIVE,), "auto", 5)
    branch_pass(SAMPLES, losses_of(unet, fits=3), len(SAMPLES))
    assert branch_pass.plan == MemoryPlan(fused=False, micro_batch=3)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    unet, weights = adapted_unet(torch.float32)

    def broken(samples: Sequence[int]) -> BranchLosses:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        BranchPass([unet], weights, "default", BRANCHES, "auto", 5)(SAMPLES, broken, 5)


def test_the_errors_of_a_gpu_and_of_a_cpu_are_known() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
