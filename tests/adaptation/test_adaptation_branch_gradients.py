"""Gradients of all that is trained: fused and in turn they are those of separate computations."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings, TextualInversionSettings
from nsync_pipeline.adaptation.dropout import (
    checkpoint_by_rows,
    dropout_rows,
    set_dropout_rows,
)
from nsync_pipeline.adaptation.lora import ADAPTER, START, lora_layers
from nsync_pipeline.adaptation.trainables import add_trainables
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.branch_copies import BranchCopies, NotFusableError
from nsync_pipeline.contrast.branch_gradients import MicroBatch, gradients_fused, gradients_in_turn
from nsync_pipeline.contrast.config import ANCHOR, NEGATIVE, POSITIVE, Branch
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.batches import NoisyBatch, branch_losses
from tests.support.tiny_models import save_tiny_stable_diffusion_xl

PROMPTS: dict[Branch, tuple[str, str]] = {
    POSITIVE: ("a red house in the style of <sks>", "a tree in the style of <sks>"),
    NEGATIVE: ("a red house not in the style of <sks>", "<sks>"),
    ANCHOR: ("a boat in the style of <sks>", "a fish"),
}
TRAINED: Mapping[str, dict[str, Any]] = {
    "one_vector": {"vectors": 1},
    "three_vectors": {"vectors": 3},
    "vectors_and_lora": {"vectors": 2, "lora": {"targets": ("to_k", "conv1")}},
    "text_encoder": {"lora": {"text_encoder": True}},
    "text_encoder_from_its_weights": {"lora": {"text_encoder": True, "start": "pissa"}},
    "lokr": {
        "lora": {"kind": "lokr", "targets": ("to_k", "conv1"), "factor": 4, "ranks": {"to_k": 20}}
    },
    "loha": {"lora": {"kind": "loha", "targets": ("to_k", "conv1")}},
    "dropout": {"lora": {"text_encoder": True, "targets": ("to_k", "conv1"), "dropout": 0.3}},
    "all": {"vectors": 2, "lora": {"text_encoder": True, "ranks": {"q_proj": 1}}},
}


@pytest.fixture(scope="module", params=["stable_diffusion", "stable_diffusion_xl"])
def family(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Family:
    """In float64 throughout."""
    base = tiny_base
    if request.param == "stable_diffusion_xl":
        base = save_tiny_stable_diffusion_xl(tmp_path_factory.mktemp("xl"))
    family = load_family(BaseModelConfig(name=str(base), device="cpu", dtype="float64"))
    for text_encoder in family.text_encoders:
        text_encoder.double()
    return family


def trained(family: Family, what: Mapping[str, Any]) -> TrainedWeights:
    """Everything away from its start."""
    lora = None
    if "lora" in what:
        lora = LoraSettings.model_validate({"rank": 2, "alpha": 3.0} | what["lora"])
    vectors = what.get("vectors")
    inversion = None if vectors is None else TextualInversionSettings(vectors=vectors)
    weights = add_trainables(family, lora, inversion, torch_stream(0, "lora"), placeholder="sks")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights.weights:
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return weights


def batch(family: Family, branch: Branch, seed: int) -> NoisyBatch:
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> Tensor:
        shape = (2, *family.latent_shape)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    timesteps = torch.randint(1000, (2,), generator=generator)
    return NoisyBatch(drawn(), timesteps, PROMPTS[branch], drawn(), dropout=(seed, seed + 100))


def plain(
    family: Family, batches: Mapping[Branch, list[NoisyBatch]], weights: TrainedWeights
) -> dict[Branch, tuple[Tensor, ...]]:
    """Each branch by itself, straightforwardly."""
    found = {}
    for branch, parts in batches.items():
        losses = []
        for part in parts:
            set_dropout_rows(family, part.dropout)
            embeds = family.embed_prompts(PROMPTS[branch])
            predicted = family.predict(part.noisy_latents, part.timesteps, embeds)
            losses.append((predicted - part.target).square().mean())
        loss = torch.stack(losses).mean()
        found[branch] = torch.autograd.grad(loss, weights.weights, materialize_grads=True)
    return found


@pytest.mark.parametrize("what", TRAINED.values(), ids=TRAINED)
def test_fused_and_in_turn_are_the_plain_gradients(family: Family, what: dict[str, Any]) -> None:
    """Each branch has its own prompts, and its own copy of the weights; all in float64."""
    weights = trained(family, what)
    batches = {
        branch: [batch(family, branch, 10 * place), batch(family, branch, 10 * place + 1)]
        for place, branch in enumerate(PROMPTS)
    }
    expected = plain(family, batches, weights)
    micro_batches = [
        MicroBatch(branch_losses(family, {b: [parts[i]] for b, parts in batches.items()}), 0.5)
        for i in range(2)
    ]
    copies = BranchCopies((family.denoiser, *family.text_encoders), weights.weights, ADAPTER)
    fused = gradients_fused(copies, tuple(PROMPTS), micro_batches)
    in_turn = gradients_in_turn(weights.weights, tuple(PROMPTS), micro_batches)
    for branch in PROMPTS:
        for way in (fused, in_turn):
            largest = max(float(wanted.abs().max()) for wanted in expected[branch])
            for name, found, wanted in zip(
                weights.names, way.gradients[branch], expected[branch], strict=True
            ):
                # The last layer of a text encoder whose next to last states are taken has none.
                assert wanted.any() or ".layers.1." in name
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12 * largest, msg=name)


def test_a_branch_without_the_word_has_no_gradient_on_its_vectors(family: Family) -> None:
    weights = trained(family, {"vectors": 2})
    noisy = {POSITIVE: batch(family, POSITIVE, 0), ANCHOR: batch(family, ANCHOR, 1)}
    noisy[ANCHOR] = NoisyBatch(
        noisy[ANCHOR].noisy_latents, noisy[ANCHOR].timesteps, ("a fish", ""),
        noisy[ANCHOR].target,
    )  # fmt: skip
    losses = branch_losses(family, {branch: [part] for branch, part in noisy.items()})
    copies = BranchCopies((family.denoiser, *family.text_encoders), weights.weights, ADAPTER)
    fused = gradients_fused(copies, (POSITIVE, ANCHOR), [MicroBatch(losses, 1.0)])
    assert all(gradient.any() for gradient in fused.gradients[POSITIVE])
    assert not any(gradient.any() for gradient in fused.gradients[ANCHOR])


def test_activations_computed_again_are_dropped_as_in_their_own_pass(family: Family) -> None:
    """Two shapes of a micro-batch go through one after the other, and come back in one."""
    weights = trained(family, {"lora": {"targets": ("to_k", "conv1"), "dropout": 0.5}})
    parts = [batch(family, POSITIVE, 0), batch(family, POSITIVE, 1)]

    def gradient(of: list[NoisyBatch]) -> tuple[Tensor, ...]:
        losses = branch_losses(family, {POSITIVE: of})
        found = gradients_in_turn(weights.weights, (POSITIVE,), [MicroBatch(losses, 1.0)])
        return found.gradients[POSITIVE]

    kept, rows = gradient(parts), dropout_rows(family)
    assert rows is not None
    denoiser: Any = family.denoiser
    denoiser.enable_gradient_checkpointing(checkpoint_by_rows(rows))
    try:
        again = gradient(parts)
    finally:
        denoiser.disable_gradient_checkpointing()
    others = gradient([replace(part, dropout=(7, 8)) for part in parts])
    for one, two, other in zip(kept, again, others, strict=True):
        torch.testing.assert_close(one, two)
        assert not torch.equal(one, other)
    set_dropout_rows(family, ())
    assert torch.equal(*(gradient([replace(p, dropout=()) for p in parts])[0] for _ in range(2)))


def test_dora_says_why_it_is_not_fused(family: Family) -> None:
    weights = trained(family, {"vectors": 1, "lora": {"dora": True}})
    with pytest.raises(NotFusableError, match="DoRA"):
        BranchCopies((family.denoiser, *family.text_encoders), weights.weights, ADAPTER)


def test_a_second_trained_adapter_is_not_fused(family: Family) -> None:
    weights = trained(family, {"lora": {"start": "olora"}})
    layers = [layer for _, layer in lora_layers(family.denoiser)]
    layers[0].lora_A[START].weight.requires_grad_()
    with pytest.raises(NotFusableError, match="another trained adapter, 'start'"):
        BranchCopies((family.denoiser,), weights.weights, ADAPTER)
