"""The training loop on a tiny Stable Diffusion."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora, remove_lora
from nsync_pipeline.contrast.config import (
    ANCHOR,
    NEGATIVE,
    POSITIVE,
    Branch,
    ContrastConfig,
    branches_of,
)
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family, PromptEmbeds
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.batches import BatchMaker, NoisyBatch
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import (
    EncodedSet,
)
from nsync_pipeline.training.held_out import HeldOutLoss
from nsync_pipeline.training.loop import TrainingOutcome, train
from nsync_pipeline.training.tensor_store import TensorRows
from nsync_pipeline.training.triplets import Triplet
from tests.support.tiny_models import TINY_RESOLUTION
from tests.support.tiny_training import (
    LORA,
    examples,
    family,
    largest_difference,
    noise_pictures,
)

__all__ = ["examples", "family"]  # fixtures


def rows_of(tensor: Tensor) -> TensorRows:
    """The rows of a tensor in memory."""
    count = len(tensor)
    return TensorRows(
        (tensor.numpy(),), np.zeros(count, np.int32), np.arange(count, dtype=np.int32)
    )


def trained(
    family: Family, examples: EncodedSet, folder: Path, **changes: Any
) -> tuple[TrainingOutcome, list[Tensor]]:
    """Train a fresh LoRA, and return the outcome and the weights."""
    settings = TrainingConfig.model_validate(
        {"update_rule": "orthogonal_anchor", "steps": 3, "batch_size": 4, "learning_rate": 0.01}
        | {"lora": LORA}
        | changes
    )
    assert settings.lora is not None
    remove_lora(family)
    lora = add_lora(family, settings.lora, torch_stream(0, "lora"))
    checkpoints = CheckpointFolder(folder, {})
    outcome = train(family, lora, examples, settings, 0, checkpoints)
    return outcome, [weight.detach().clone() for weight in lora.weights]


@pytest.mark.parametrize("rule", ["none", "orthogonal", "orthogonal_anchor"])
def test_each_rule_takes_only_the_branches_it_needs(
    family: Family, examples: EncodedSet, tmp_path: Path, rule: Any
) -> None:
    outcome, _ = trained(family, examples, tmp_path, update_rule=rule)
    for branch in (POSITIVE, NEGATIVE, ANCHOR):
        there = [getattr(record, f"loss_{branch}") is not None for record in outcome.history]
        assert there == [branch in branches_of(rule, ContrastConfig()).ordered] * 3
    assert outcome.branches == ("single" if rule == "none" else "fused")


def test_rules_see_the_same_positives_at_the_start(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    """The first step's positive loss is before any update: the rules differ in nothing else."""
    first = {
        rule: trained(family, examples, tmp_path / rule, update_rule=rule, steps=1)[0].history[0]
        for rule in ("none", "orthogonal", "orthogonal_anchor")
    }
    reference = first["none"]
    for record in first.values():
        assert record.loss_positive == pytest.approx(reference.loss_positive, rel=1e-5)
        assert record.norm_positive == pytest.approx(reference.norm_positive, rel=1e-4)


def test_fused_and_in_turn_train_alike(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    fused, a = trained(family, examples, tmp_path / "fused", branches="fused")
    in_turn, b = trained(family, examples, tmp_path / "in_turn", branches="in_turn")
    assert (fused.branches, in_turn.branches) == ("fused", "in_turn")
    assert fused.history[-1].loss_negative == pytest.approx(
        in_turn.history[-1].loss_negative, rel=1e-4
    )
    assert largest_difference(a, b) < 1e-4


def test_four_micro_batches_of_one_are_a_batch_of_four(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    whole, a = trained(family, examples, tmp_path / "whole", batch_size=4, accumulation=1)
    parts, b = trained(family, examples, tmp_path / "parts", batch_size=1, accumulation=4)
    for one, other in zip(whole.history, parts.history, strict=True):
        assert other.share_removed == pytest.approx(one.share_removed, rel=1e-3, abs=1e-6)
        assert other.loss_anchor == pytest.approx(one.loss_anchor, rel=1e-4)
    assert largest_difference(a, b) < 1e-4


def test_the_same_settings_give_the_same_weights(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    _, a = trained(family, examples, tmp_path / "a")
    torch.manual_seed(2)
    _, b = trained(family, examples, tmp_path / "b")
    assert largest_difference(a, b) == 0.0


def test_training_lowers_the_loss_on_what_it_is_trained_on(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    """Of a picture that is 0 everywhere nothing is seen but the noise: easy to tell."""
    easy = replace(examples, latents=rows_of(torch.zeros(4, *family.latent_shape)))
    convolutions = LoraSettings(rank=4, alpha=8.0, targets=("conv_in", "conv1", "conv_out"))
    remove_lora(family)
    loss = HeldOutLoss(family, easy, seed=5)
    before = loss()
    trained(family, easy, tmp_path, steps=40, update_rule="orthogonal", lora=convolutions)
    assert loss() < 0.8 * before


def test_the_held_out_loss_is_taken_at_the_start_at_checkpoints_and_at_the_end(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    settings = TrainingConfig.model_validate(
        {"steps": 5, "batch_size": 1, "checkpoint_every": 2, "lora": LORA}
    )
    remove_lora(family)
    loss = HeldOutLoss(family, examples, seed=0)
    lora = add_lora(family, LORA, torch_stream(0, "lora"))
    seen: list[tuple[int, float]] = []
    checkpoints = CheckpointFolder(tmp_path, {})
    outcome = train(
        family, lora, examples, settings, 0, checkpoints, loss,
        on_held_out=lambda done, value: seen.append((done, value)),
    )  # fmt: skip
    assert list(outcome.held_out) == [0, 2, 4, 5]
    assert seen == list(outcome.held_out.items())
    assert outcome.held_out[5] == loss()


def test_the_refined_gradient_is_clipped(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    """AdamW takes no notice of a gradient's scale but for eps: clipped to 1e-12, little moves."""
    outcome, a = trained(family, examples, tmp_path / "a", steps=1, max_gradient_norm=1e-12)
    _, b = trained(family, examples, tmp_path / "b", steps=1, max_gradient_norm=None)
    remove_lora(family)
    start = [w.detach() for w in add_lora(family, LORA, torch_stream(0, "lora")).weights]
    assert outcome.history[0].norm_refined > 1e-6
    assert largest_difference(a, start) < 1e-5
    assert largest_difference(b, start) > 1e-3


@pytest.mark.parametrize("branches", ["fused", "in_turn"])
def test_a_loss_that_is_not_finite_names_step_branch_and_pictures(
    family: Family, examples: EncodedSet, tmp_path: Path, branches: str
) -> None:
    latents = examples.negative_latents.stacked(range(8))
    latents[examples.negative_row(2, 0)] = math.inf
    latents[examples.negative_row(2, 1)] = math.inf
    broken = replace(examples, negative_latents=rows_of(latents))
    with pytest.raises(TrainingError, match=r"step 1: the loss of the negative branch.*p2"):
        trained(family, broken, tmp_path, branches=branches)


def test_negatives_that_are_the_positives_leave_nothing(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    """At the same noise, too: ``g- = g+``, and all of it is removed."""
    same = replace(
        examples,
        negative_latents=examples.latents,
        negative_counts=(1,) * 4,
        negative_starts=tuple(range(4)),
    )
    outcome, _ = trained(
        family, same, tmp_path, update_rule="orthogonal", shared_noise=True, branches="in_turn"
    )
    assert outcome.history[0].share_removed == pytest.approx(1.0)
    assert outcome.history[0].norm_refined < 1e-5 * outcome.history[0].norm_positive


def maker(family: Family, examples: EncodedSet, shared_noise: bool) -> BatchMaker:
    return BatchMaker(examples, family.noise_schedule, 0, shared_noise)


TRIPLET = Triplet(
    position=0, positive=1, negatives=(1,), negatives_of=1, anchor=3, prompt_form="whole"
)


def only_batch(of: BatchMaker, branch: Branch, triplet: Triplet = TRIPLET) -> NoisyBatch:
    (batch,) = of.batch(branch, 0, [triplet])
    return batch


def tokens_of(batch: NoisyBatch) -> Tensor:
    assert isinstance(batch.prompts, PromptEmbeds)
    return batch.prompts.tokens


def test_branches_draw_their_own_noise_unless_it_is_shared(
    family: Family, examples: EncodedSet
) -> None:
    own = [only_batch(maker(family, examples, False), b) for b in (POSITIVE, NEGATIVE)]
    assert not torch.equal(own[0].target, own[1].target)
    shared = [
        only_batch(maker(family, examples, True), b)
        for b in branches_of("orthogonal", ContrastConfig()).ordered
    ]
    assert torch.equal(shared[0].target, shared[1].target)  # epsilon: the noise itself
    assert torch.equal(shared[0].timesteps, shared[1].timesteps)
    assert not torch.equal(shared[0].noisy_latents, shared[1].noisy_latents)


def test_the_negative_has_its_positives_prompt_and_the_anchor_its_own(
    family: Family, examples: EncodedSet
) -> None:
    of = maker(family, examples, False)
    tokens = [examples.encoded_prompts.embeds([prompt]).tokens for prompt in examples.prompts]
    assert torch.equal(tokens_of(only_batch(of, POSITIVE)), tokens[1])
    assert torch.equal(tokens_of(only_batch(of, NEGATIVE)), tokens[1])
    assert torch.equal(tokens_of(only_batch(of, ANCHOR)), tokens[3])


def test_a_dropped_caption_is_dropped_in_the_whole_triplet(
    family: Family, examples: EncodedSet
) -> None:
    dropped = replace(TRIPLET, prompt_form="empty")
    empty = family.encode_prompts([""]).tokens
    for branch in branches_of("orthogonal_anchor", ContrastConfig()).ordered:
        batch = only_batch(maker(family, examples, False), branch, dropped)
        assert torch.equal(tokens_of(batch), empty)


def test_negatives_are_found_beside_their_positive(family: Family, examples: EncodedSet) -> None:
    """Picture 1's second negative is the picture called 21, the fourth that was encoded."""
    pixels = noise_pictures(Path("21"), (TINY_RESOLUTION, TINY_RESOLUTION))[None]
    row = examples.negative_row(1, 1)
    assert row == 3
    torch.testing.assert_close(examples.negative_latents[row], family.encode_pictures(pixels)[0])
