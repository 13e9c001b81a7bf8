"""The neighbours of the method: each training's gradient is that of its published loss, in float64.

The losses are written out here from separate predictions, with PEFT's own switches for the base and
the mirrored weights; the training takes branches, in one pass or in turn.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora, lora_layers, remove_lora
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast import rules
from nsync_pipeline.contrast.branch_gradients import BranchPass
from nsync_pipeline.contrast.config import MIRRORED, NEGATIVE, POSITIVE
from nsync_pipeline.contrast.refiner import Refiner
from nsync_pipeline.diffusion.objectives import per_sample_loss
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.training.batches import BatchMaker, NoisyBatch, batch_maker, predicted
from nsync_pipeline.training.batches_ahead import BatchesAhead
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet, Example, StylePrompts, encode_examples
from nsync_pipeline.training.loop import train
from nsync_pipeline.training.neighbours import require_fitting
from nsync_pipeline.training.processes import ALONE
from nsync_pipeline.training.step_gradients import StepGradients
from nsync_pipeline.training.triplets import Triplet, triplet_order
from tests.support.tiny_models import save_tiny_stable_diffusion
from tests.support.tiny_style import tiny_family
from tests.support.tiny_training import noise_pictures, stored

CAPTIONS = ("a red house", "a blue boat on water", "a green tree on grass")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = save_tiny_stable_diffusion(tmp_path_factory.mktemp("base"), "v_prediction")
    return load_family(BaseModelConfig(name=str(folder), device="cpu", dtype="float64"))


@pytest.fixture(scope="module")
def examples(family: Family) -> EncodedSet:
    """The negatives' prompts are those they were drawn for."""
    of = [
        Example(
            f"p{i}", stored(i), f"{caption} in the style of sks", (stored(10 + i),),
            f"{caption} in the style of painting",
        )
        for i, caption in enumerate(CAPTIONS)
    ]  # fmt: skip
    prompts = StylePrompts("in the style of sks", "in the style of painting")
    return encode_examples(family, of, noise_pictures, lambda a, b: None, style_prompts=prompts)


@pytest.fixture(scope="module")
def lora(family: Family, examples: EncodedSet) -> TrainedWeights:
    """Away from zero, on layers of the text encoder too: prompts are encoded in the loss."""
    generator = torch.Generator().manual_seed(1)
    trained = add_lora(family, LoraSettings(rank=2, alpha=3.0, text_encoder=True), generator)
    with torch.no_grad():
        for weight in trained.weights:
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return trained


@contextmanager
def switched(family: Family, strength: float) -> Iterator[None]:
    layers = [
        layer
        for model in (family.denoiser, *family.text_encoders)
        for _, layer in lora_layers(model)
    ]
    for layer in layers:
        layer.set_scale("default", strength)
    yield
    for layer in layers:
        layer.set_scale("default", 1.0)


class Written:
    """What a published loss is made of, for the triplets of one step."""

    def __init__(self, family: Family, maker: BatchMaker, triplets: Sequence[Triplet]) -> None:
        self.family = family
        (self.positive,) = maker.batch(POSITIVE, 0, triplets)
        (self.negative,) = maker.batch(NEGATIVE, 0, triplets)

    def said(self, batch: NoisyBatch, strength: float = 1.0) -> Tensor:
        with switched(self.family, strength):
            return predicted(self.family, batch)

    def to(self, batch: NoisyBatch, strength: float = 1.0) -> Tensor:
        """The loss of each sample."""
        return per_sample_loss(self.said(batch, strength), batch.target)

    @property
    def margins(self) -> Tensor:
        gains = [self.to(b) - self.to(b, 0.0).detach() for b in (self.positive, self.negative)]
        return gains[0] - gains[1]

    def loss(self, rule: str, contrast: dict[str, Any]) -> Tensor:
        positive, negative = self.positive, self.negative
        weight = contrast.get("negative_weight", 1.0)
        match rule:
            case "preference":
                supervised = contrast.get("supervised", 1.0)
                return rules.preference_loss(
                    self.margins, self.to(positive), contrast["beta"], supervised
                )
            case "prior_preservation":
                return self.to(positive).mean() + weight * self.to(negative).mean()
            case "class_preservation":
                generic = replace(positive, prompts=negative.prompts)
                kept = replace(generic, target=self.said(generic, 0.0).detach())
                return self.to(positive).mean() + weight * self.to(kept).mean()
            case "contrastive_target":
                said, repulsion = self.said(positive), contrast.get("repulsion", 0.05)
                own, other = (per_sample_loss(said, b.target) for b in (positive, negative))
                return rules.contrastive_target_loss(own, other, repulsion).mean()
            case "slider":
                return self.to(positive).mean() + weight * self.to(negative, -1.0).mean()
        beta, parts = contrast.get("mirror", 1.0), []
        for batch in (positive, negative):
            own, base = self.said(batch), self.said(batch, 0.0).detach()
            moved = rules.mirrored_prediction(own, base, beta, batch is negative)
            parts.append(per_sample_loss(moved, batch.target).mean())
        return parts[0] + weight * parts[1]


CASES: list[tuple[str, dict[str, Any]]] = [
    ("preference", {"beta": 4.0}),
    ("preference", {"beta": 500.0, "supervised": 0.0}),
    ("prior_preservation", {"negative_weight": 0.5}),
    ("class_preservation", {"negative_weight": 2.0}),
    ("contrastive_target", {"repulsion": 0.3}),
    ("slider", {"negative_weight": 0.5}),
    ("negative_aware", {}),
    ("negative_aware", {"mirror": 0.5, "negative_weight": 0.5}),
]


def settings_of(rule: str, contrast: dict[str, Any], branches: str = "auto") -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "update_rule": rule, "shared_noise": True, "batch_size": 3, "branches": branches,
            "lora": {"rank": 2, "alpha": 3.0, "text_encoder": True}, "contrast": contrast,
        }
    )  # fmt: skip


def step_of(
    family: Family, examples: EncodedSet, lora: TrainedWeights, settings: TrainingConfig
) -> tuple[StepGradients, Refiner]:
    named = dict(zip(lora.names, lora.weights, strict=True))
    refiner = Refiner(named, settings.update_rule, settings.contrast)
    mirrored = frozenset(
        b for b in refiner.branches if b.is_negative and settings.update_rule in MIRRORED
    )
    modules = (family.denoiser, *family.text_encoders)
    taken = BranchPass(
        modules, lora.weights, "default", refiner.branches, settings.branches, 3, mirrored=mirrored
    )
    maker = batch_maker(examples, family, settings, 0, live_prompts=True)
    ahead = BatchesAhead(maker, family.device)
    gradients = StepGradients(
        family, lora.weights, refiner.branches, ahead, taken, ALONE, None, settings.update_rule,
        settings.contrast,
    )  # fmt: skip
    return gradients, refiner


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize("branches", ["fused", "in_turn"])
@pytest.mark.parametrize(("rule", "contrast"), CASES)
def test_a_training_goes_along_the_gradient_of_the_published_loss(
    family: Family,
    examples: EncodedSet,
    lora: TrainedWeights,
    rule: str,
    contrast: dict[str, Any],
    branches: str,
) -> None:
    settings = settings_of(rule, contrast, branches)
    triplets = triplet_order(examples, settings_of("orthogonal", {}), 0).triplets(0)
    gradients, refiner = step_of(family, examples, lora, settings)
    found = gradients(0, triplets)
    plain = BatchMaker(examples, family.noise_schedule, 0, shared_noise=True, live_prompts=True)
    written = Written(family, plain, triplets)
    expected = flat(torch.autograd.grad(written.loss(rule, contrast), lora.weights))
    refined = flat(refiner.of_branches(found.gradients).gradient)
    assert expected.norm() > 0
    torch.testing.assert_close(refined, expected, rtol=1e-7, atol=1e-9 * float(expected.norm()))
    if rule == "preference":  # what is shown is the plain loss
        assert found.losses[POSITIVE] == pytest.approx(written.to(written.positive).mean().item())


def test_a_preference_with_a_margin_is_safeguarded(
    family: Family, examples: EncodedSet, lora: TrainedWeights
) -> None:
    contrast = {"beta": 50.0, "supervised": 0.5, "margin": 0.25}
    settings = settings_of("preference", contrast)
    triplets = triplet_order(examples, settings, 0).triplets(0)
    gradients, refiner = step_of(family, examples, lora, settings)
    refined = flat(refiner.of_branches(gradients(0, triplets).gradients).gradient)
    plain = BatchMaker(examples, family.noise_schedule, 0, shared_noise=True, live_prompts=True)
    written = Written(family, plain, triplets)
    factors = 25.0 * torch.sigmoid(25.0 * written.margins.detach())
    won, lost = (
        flat(torch.autograd.grad((weights * written.to(batch)).mean(), lora.weights))
        for weights, batch in ((factors + 0.5, written.positive), (factors, written.negative))
    )
    expected = rules.safeguarded(won, [lost], margin=0.25)
    torch.testing.assert_close(refined, expected, rtol=1e-7, atol=1e-9 * float(expected.norm()))


def test_automatic_beta_follows_the_margins_of_the_steps_before(
    family: Family, examples: EncodedSet, lora: TrainedWeights
) -> None:
    """256 numbers a latent: at no margin beta is 256; then 2 ln 4 over the running mean of |m|."""
    settings = settings_of("preference", {})
    order = triplet_order(examples, settings, 0)
    gradients, _ = step_of(family, examples, lora, settings)
    assert gradients.beta == 256.0
    gradients(0, order.triplets(0))
    first = gradients.margin_size
    assert first is not None
    plain = BatchMaker(examples, family.noise_schedule, 0, shared_noise=True, live_prompts=True)
    margins = Written(family, plain, order.triplets(0)).margins
    assert first == pytest.approx(margins.abs().mean().item())
    assert gradients.beta == pytest.approx(min(256.0, 2.772588722 / first))
    gradients(1, order.triplets(1))
    assert gradients.margin_size is not None
    assert 0.99 * first < gradients.margin_size < first + 0.01 * 10


@pytest.mark.parametrize(
    ("rule", "contrast"),
    [
        ("preference", {}),
        ("slider", {}),
        ("orthogonal", {"negative_every": 2, "negative_estimate": "running_mean"}),
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    family: Family, examples: EncodedSet, tmp_path: Path, rule: str, contrast: dict[str, Any]
) -> None:
    """What is kept from step to step comes back: beta's margins, the running estimate."""
    settings = settings_of(rule, contrast).model_copy(update={"steps": 4, "checkpoint_every": 2})

    def trained(folder: Path, stop: bool = False) -> Tensor:
        remove_lora(family)
        assert settings.lora is not None
        fresh = add_lora(family, settings.lora, torch.Generator().manual_seed(2))

        def on_step(record: Any) -> None:
            if stop and record.step == 3:
                raise KeyboardInterrupt

        kept = CheckpointFolder(folder, {})
        outcome = train(family, fresh, examples, settings, 0, kept, on_step=on_step)
        losses = [record.loss_negative for record in outcome.history]
        if contrast.get("negative_every"):
            assert [loss is None for loss in losses] == [False, True, False, True]
            norms = [record.norm_negative is None for record in outcome.history]
            assert norms == [False, True, False, True]
            assert all(record.share_removed > 0 for record in outcome.history)
        return flat([weight.detach() for weight in fresh.weights])

    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", stop=True)
    assert torch.equal(trained(tmp_path / "cut"), whole)
    remove_lora(family)


def test_a_contrastive_target_is_refused_where_both_targets_are_the_noise(tiny_base: Path) -> None:
    with pytest.raises(TrainingError, match=r"has no effect on .* predicts the noise"):
        require_fitting(tiny_family(tiny_base), settings_of("contrastive_target", {}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update_rule": "slider", "lora": {"dora": True}}, "mirrors what the LoRA adds"),
        ({"update_rule": "slider", "lora": {"start": "pissa"}}, "mirrors what the LoRA adds"),
        ({"update_rule": "preference", "textual_inversion": {}}, "the base without its LoRA"),
        ({"contrast": {"strength": 2.0}}, "say by conflict what is"),
        ({"contrast": {"positive_part": True, "conflict": "leave"}}, "set one of them"),
        ({"contrast": {"negative_every": 2}}, "needs an estimate that stands in"),
        (
            {"update_rule": "preference", "contrast": {"conflict": "leave"}},
            "without a margin, whose negatives are always pushed away",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate(changes)
