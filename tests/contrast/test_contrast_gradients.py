"""The fused pass gives the gradients of passes in turn, on the real layers of a tiny UNet."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from nsync_pipeline.contrast.branch_copies import BranchCopies, NotFusableError
from nsync_pipeline.contrast.branch_gradients import (
    BranchLosses,
    BranchPass,
    MicroBatch,
    gradients_fused,
    gradients_in_turn,
)
from nsync_pipeline.contrast.config import ANCHOR, NEGATIVE, POSITIVE, Branch
from nsync_pipeline.errors import TrainingError
from tests.support.tiny_unet import BRANCHES, adapted_unet, largest_relative_error

SAMPLES = 2


def micro_batch(unet: nn.Module, dtype: torch.dtype, seed: int) -> BranchLosses:
    """Random noisy latents, timesteps, prompts and targets for each branch."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    inputs = {
        branch: (
            drawn(SAMPLES, 2, 8, 8),
            torch.randint(1000, (SAMPLES,), generator=generator),
            drawn(SAMPLES, 5, 8),
            drawn(SAMPLES, 2, 8, 8),
        )
        for branch in BRANCHES
    }

    def losses(branches: Sequence[Branch]) -> Tensor:
        latents, timesteps, prompts, targets = (
            torch.cat(tensors) for tensors in zip(*(inputs[b] for b in branches), strict=True)
        )
        predicted = unet(latents, timesteps, encoder_hidden_states=prompts).sample
        return (predicted - targets).square().view(len(branches), -1).mean(dim=1)

    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_fused_gradients_are_those_of_passes_in_turn(dtype: torch.dtype, tolerance: float) -> None:
    unet, weights = adapted_unet(dtype)
    micro_batches = [MicroBatch(micro_batch(unet, dtype, seed), 0.5) for seed in (1, 2)]
    in_turn = gradients_in_turn(weights, BRANCHES, micro_batches)
    fused = gradients_fused(BranchCopies([unet], weights, "default"), BRANCHES, micro_batches)
    assert any(weight.ndim == 4 for weight in weights)
    assert largest_relative_error(fused, in_turn) < tolerance
    for branch in BRANCHES:
        assert fused.losses[branch] == pytest.approx(in_turn.losses[branch], rel=tolerance)


def test_fused_gradients_hold_under_gradient_checkpointing() -> None:
    """The backward pass runs the layers again: the copies must still be in use then."""
    unet, weights = adapted_unet(torch.float64)
    micro_batches = [MicroBatch(micro_batch(unet, torch.float64, 1), 1.0)]
    in_turn = gradients_in_turn(weights, BRANCHES, micro_batches)
    unet.enable_gradient_checkpointing()
    unet.train()
    fused = gradients_fused(BranchCopies([unet], weights, "default"), BRANCHES, micro_batches)
    assert largest_relative_error(fused, in_turn) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_keeps_float32_gradients(dtype: torch.dtype) -> None:
    """The LoRA is float32 on a base that rounds to 8 (bfloat16) or 11 bits: a few percent off. The
    loss is so small that unscaled float16 gradients would be lost."""
    unet, weights = adapted_unet(torch.float32)
    exact = gradients_in_turn(weights, BRANCHES, [whole(tiny_losses(unet, torch.float32))])
    unet.to(dtype)
    for weight in weights:
        weight.data = weight.data.float()
    losses = [whole(tiny_losses(unet, dtype))]
    in_turn = gradients_in_turn(weights, BRANCHES, losses, loss_scale=2.0**20)
    fused = gradients_fused(BranchCopies([unet], weights, "default"), BRANCHES, losses, 2.0**20)
    for found in (in_turn, fused):
        assert all(g.dtype == torch.float32 for g in found.gradients[NEGATIVE])
        for branch in BRANCHES:
            error = flat(found.gradients[branch]) - flat(exact.gradients[branch])
            assert error.norm() < 0.1 * flat(exact.gradients[branch]).norm()


def whole(losses: BranchLosses) -> MicroBatch:
    return MicroBatch(losses, 1.0)


def tiny_losses(unet: nn.Module, dtype: torch.dtype) -> BranchLosses:
    losses = micro_batch(unet, dtype, 1)
    return lambda branches: losses(branches).float() * 2.0**-20


def flat(gradient: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in gradient])


def test_gradients_are_those_of_plain_backward() -> None:
    unet, weights = adapted_unet(torch.float64)
    losses = micro_batch(unet, torch.float64, 1)
    found = gradients_in_turn(weights, (NEGATIVE,), [whole(losses)])
    losses((NEGATIVE,)).sum().backward()
    for weight, gradient in zip(weights, found.gradients[NEGATIVE], strict=True):
        torch.testing.assert_close(gradient, weight.grad)


def test_afterwards_the_model_is_as_it_was() -> None:
    unet, weights = adapted_unet(torch.float32)
    losses = micro_batch(unet, torch.float32, 1)
    before = losses((POSITIVE,)).item()
    gradients_fused(BranchCopies([unet], weights, "default"), BRANCHES, [whole(losses)])
    assert losses((POSITIVE,)).item() == before
    assert all(weight.grad is None for weight in weights)


def test_copies_follow_the_weights() -> None:
    unet, weights = adapted_unet(torch.float32)
    copies = BranchCopies([unet], weights, "default")
    losses = micro_batch(unet, torch.float32, 1)
    gradients_fused(copies, BRANCHES, [whole(losses)])
    with torch.no_grad():
        for weight in weights:
            weight.mul_(0.5)
    fused = gradients_fused(copies, BRANCHES, [whole(losses)])
    in_turn = gradients_in_turn(weights, BRANCHES, [whole(losses)])
    assert fused.losses[ANCHOR] == pytest.approx(in_turn.losses[ANCHOR], rel=1e-5)


def test_micro_batches_count_by_their_share_of_the_samples() -> None:
    """One of three samples and one of one: 3/4 and 1/4 of the mean over the four."""
    unet, weights = adapted_unet(torch.float64)
    batches = [micro_batch(unet, torch.float64, seed) for seed in (1, 2)]
    shares = (0.75, 0.25)
    parts = [MicroBatch(batch, share) for batch, share in zip(batches, shares, strict=True)]
    both = gradients_in_turn(weights, (POSITIVE,), parts)
    first, second = (gradients_in_turn(weights, (POSITIVE,), [whole(b)]) for b in batches)
    assert both.losses[POSITIVE] == pytest.approx(
        0.75 * first.losses[POSITIVE] + 0.25 * second.losses[POSITIVE]
    )
    torch.testing.assert_close(
        both.gradients[POSITIVE][0],
        0.75 * first.gradients[POSITIVE][0] + 0.25 * second.gradients[POSITIVE][0],
    )


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize("lora", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_layers_that_are_more_than_two_factors_are_not_fused(lora: dict[str, object]) -> None:
    unet, weights = adapted_unet(torch.float32, target_modules=["to_q", "to_out.0"], **lora)
    with pytest.raises(NotFusableError):
        BranchCopies([unet], weights, "default")
    with pytest.raises(TrainingError, match=r"training\.branches is fused"):
        BranchPass([unet], weights, "default", BRANCHES, "fused", 1)
    assert not BranchPass([unet], weights, "default", BRANCHES, "auto", 1).plan.fused


def test_other_trained_weights_are_not_fused() -> None:
    unet, weights = adapted_unet(torch.float32)
    with pytest.raises(NotFusableError, match="1 of the"):
        BranchCopies([unet], [*weights, nn.Parameter(torch.zeros(2))], "default")


def test_a_mirrored_branch_takes_several_micro_batches() -> None:
    """Each has a way back of its own; the gradients are those of both samples at once."""
    unet, weights = adapted_unet(torch.float64)
    copies, taken = BranchCopies([unet], weights, "default"), (POSITIVE, NEGATIVE)
    parts = [micro_batch(unet, torch.float64, seed) for seed in (1, 2)]
    mirrored = frozenset({NEGATIVE})
    both = gradients_fused(copies, taken, [MicroBatch(p, 0.5) for p in parts], 1.0, mirrored)
    each = [gradients_fused(copies, taken, [MicroBatch(p, 1.0)], 1.0, mirrored) for p in parts]
    for branch in taken:
        halves = zip(*(one.gradients[branch] for one in each), strict=True)
        for found, (first, second) in zip(both.gradients[branch], halves, strict=True):
            torch.testing.assert_close(found, (first + second) / 2)
