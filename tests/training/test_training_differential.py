"""Differential LoRA: in float64 what two plain trainings by hand give, the first merged between."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from nsync_pipeline.adaptation.beneath import BENEATH, in_use
from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import (
    ADAPTER,
    add_lora,
    lora_layers,
    lora_weights,
    remove_lora,
    weights_of,
)
from nsync_pipeline.adaptation.lora_file import read_lora_file, save_lora
from nsync_pipeline.adaptation.trained_weights import adapted_models_of
from nsync_pipeline.contrast.config import POSITIVE
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.seeding import stream_seed, torch_stream
from nsync_pipeline.training import stage
from nsync_pipeline.training.batches import batch_maker, sample_losses
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig, TrainingSettings
from nsync_pipeline.training.encoded_set import EncodedSet, Example, StylePrompts, encode_examples
from nsync_pipeline.training.loop import train
from nsync_pipeline.training.on_top import FIRST_START, learn_beneath
from nsync_pipeline.training.triplets import triplet_order
from nsync_pipeline.workspace import Workspace
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import folder_bytes
from tests.support.tiny_models import save_tiny_stable_diffusion
from tests.support.tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style
from tests.support.tiny_training import noise_pictures, stored

LORA = LoraSettings(rank=2, alpha=3.0, text_encoder=True)
SEED, STEPS = 5, 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("base"), "v_prediction")


@pytest.fixture
def family(base: Path) -> Family:
    return load_family(BaseModelConfig(name=str(base), device="cpu", dtype="float64"))


@pytest.fixture
def examples(family: Family) -> EncodedSet:
    of = [
        Example(f"p{i}", stored(i), f"a house in the style of sks {i}", negatives, "a house")
        for i, negatives in enumerate([(stored(10), stored(11)), (stored(12),)])
    ]
    prompts = StylePrompts("in the style of sks", "in the style of painting")
    return encode_examples(family, of, noise_pictures, lambda a, b: None, style_prompts=prompts)


def settings_of(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "update_rule": "differential", "steps": STEPS, "batch_size": 2, "schedule": "constant",
            "learning_rate": 0.01, "max_gradient_norm": None, "lora": LORA.model_dump(), **changes,
        }
    )  # fmt: skip


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All numbers, in the order of the names."""
    return torch.cat([tensors[name].detach().flatten() for name in sorted(tensors)])


def now(family: Family, adapter: str = ADAPTER) -> dict[str, Tensor]:
    return {
        f"{adapted.key(name)}.{part}": weight
        for adapted in adapted_models_of(family)
        for name, layer in lora_layers(adapted.model)
        for part, weight in weights_of(layer, adapter).items()
    }


def trained_by_hand(
    family: Family, examples: EncodedSet, settings: TrainingConfig, seed: int, start: str
) -> dict[str, Tensor]:
    """Plain LoRA from here: its factors after AdamW's steps on the pictures' losses."""
    lora = add_lora(family, LORA, torch_stream(SEED, start))
    order = triplet_order(examples, settings, seed)
    maker = batch_maker(examples, family, settings, seed, live_prompts=True)
    optimizer = torch.optim.AdamW(lora.weights, lr=0.01, weight_decay=0.0)
    for step in range(STEPS):
        (batch,) = maker.batch(POSITIVE, step, order.triplets(step))
        optimizer.zero_grad()
        sample_losses(family, batch).mean().backward()
        optimizer.step()
    return {name: weight.detach().clone() for name, weight in now(family).items()}


def merge(family: Family) -> None:
    """``W + (alpha / rank) B A`` in the place of ``W``, and no LoRA any more."""
    for adapted in adapted_models_of(family):
        for _, layer in lora_layers(adapted.model):
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            change = (up.flatten(1) @ down.flatten(1)) * (LORA.alpha / LORA.rank)
            weight = layer.get_base_layer().weight
            with torch.no_grad():
                weight.add_(change.view_as(weight))
    remove_lora(family)


def test_the_second_lora_is_what_plain_training_gives_on_top_of_the_first(
    base: Path, family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    settings = settings_of()
    plain = settings_of(update_rule="none")
    hand = load_family(BaseModelConfig(name=str(base), device="cpu", dtype="float64"))
    of_negatives = examples.of_negatives()
    assert of_negatives.ids == ("p0_0", "p0_1", "p1_0")
    assert set(of_negatives.prompts) == {"a house"}
    beneath = stream_seed(SEED, "beneath")
    first = trained_by_hand(hand, of_negatives, plain, beneath, FIRST_START)
    merge(hand)
    second = trained_by_hand(hand, examples, plain, SEED, "lora")

    weights = add_lora(family, LORA, torch_stream(SEED, FIRST_START))
    kept = CheckpointFolder(tmp_path / "beneath", {})
    learn_beneath(family, weights, examples, settings, SEED, kept)
    frozen = now(family, BENEATH)
    torch.testing.assert_close(flat(frozen), flat(first), rtol=0, atol=1e-10)
    outcome = train(
        family, weights, examples, settings, SEED, CheckpointFolder(tmp_path / "top", {}),
        learning=partial(in_use, family),
    )  # fmt: skip
    torch.testing.assert_close(flat(now(family)), flat(second), rtol=0, atol=1e-9)
    torch.testing.assert_close(flat(frozen), flat(first), rtol=0, atol=1e-10)
    assert outcome.branches == "single"
    # Without the first beneath it would have come to something else.
    remove_lora(family)
    alone = trained_by_hand(family, examples, plain, SEED, "lora")
    assert float((flat(alone) - flat(second)).abs().max()) > 1e-3


def test_the_first_lora_acts_only_while_the_second_learns(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    """And is in no file: at its start the second changes nothing."""
    maker = batch_maker(examples, family, settings_of(update_rule="none"), 0, live_prompts=True)
    order = triplet_order(examples, settings_of(update_rule="none"), 0)
    (batch,) = maker.batch(POSITIVE, 0, order.triplets(0))
    with torch.no_grad():
        of_base = sample_losses(family, batch)
        weights = add_lora(family, LORA, torch_stream(SEED, FIRST_START))
    kept = CheckpointFolder(tmp_path / "beneath", {})
    learn_beneath(family, weights, examples, settings_of(), SEED, kept)
    with torch.no_grad():
        assert torch.equal(sample_losses(family, batch), of_base)
        with in_use(family):
            assert not torch.equal(sample_losses(family, batch), of_base)
            assert [w.requires_grad for w in weights.weights] == [True] * len(weights.weights)
        assert torch.equal(sample_losses(family, batch), of_base)
    save_lora(family, tmp_path / "lora.safetensors", {"base_revision": family.revision})
    _, tensors = read_lora_file(tmp_path / "lora.safetensors")
    assert set(tensors) == set(lora_weights(family).names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"dora": True}}, "adds two fresh LoRAs"),
        ({"lora": {"start": "pissa"}}, "adds two fresh LoRAs"),
        ({"lora": {"kind": "loha"}}, "adds two fresh LoRAs"),
        ({"lora": {"start_from": "a.safetensors"}}, "adds two fresh LoRAs"),
        ({"textual_inversion": {}}, "trains one LoRA on top of another"),
        ({"contrast": {"strength": 0.5}}, "contrast.strength has no effect"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings_of(**changes)


def test_a_training_broken_off_in_either_part_comes_to_the_same_bytes(
    tiny_base: Path, tmp_path: Path
) -> None:
    """And says of itself how well the negatives were learned."""
    params = tiny_params(
        tiny_base,
        {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "lora": {"rank": 2, "alpha": 2.0}},
        rule="differential",
    )

    def trained(name: str, stop_at: tuple[str, int] | None = None) -> dict[str, bytes]:
        workspace = Workspace(tmp_path / name)
        if not workspace.root.exists():
            write_tiny_style(workspace, tiny_family(tiny_base).revision)

        def on_step(what: str, done: int, total: int) -> None:
            if stop_at is not None and what == stop_at[0] and done == stop_at[1]:
                raise KeyboardInterrupt

        stage.run(
            stage_context(TrainingSettings, workspace, params, STYLE, "nsync", progress=on_step)
        )
        return folder_bytes(workspace.model(STYLE, "nsync", 0))

    whole = trained("whole")
    summary = json.loads(whole["training.json"])
    assert summary["last_loss_negative"] > 0
    assert summary["branches"] == "single"
    for part in ("training on the negatives", "training"):
        with pytest.raises(KeyboardInterrupt):
            trained("cut", (part, 3))
    assert trained("cut") == whole
