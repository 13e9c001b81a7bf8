"""The optimizer: what is decayed, at which rates, its metric, its state and back."""

import sys
import types
from typing import Any

import prodigyopt
import pytest
import schedulefree
import torch
from pydantic import ValidationError
from torch import nn

from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.optimizer import (
    make_optimizer,
    optimizer_metric,
    restore,
    state_tensors,
    take_step,
)

RATES = {"denoiser": 0.1, "text_encoder": 0.2, "embedding": 0.3}


def weights(size: int = 2) -> TrainedWeights:
    """Groups in turn: the places in the optimizer are not those in the vector."""
    return TrainedWeights(
        ("a", "b", "c", "d"),
        tuple(nn.Parameter(torch.full((size,), 1.0)) for _ in range(4)),
        ("embedding", "denoiser", "text_encoder", "denoiser"),
    )


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(changes)


def test_each_group_steps_at_its_own_rate() -> None:
    """AdamW's first step is its rate, whatever the gradient."""
    trained = weights()
    optimizer = make_optimizer(trained, settings())
    take_step(optimizer, trained.weights, [torch.full((2,), 5.0)] * 4, RATES)  # type: ignore[arg-type]
    moved = [1.0 - weight[0].item() for weight in trained.weights]
    assert moved == pytest.approx([0.3, 0.1, 0.2, 0.1], rel=1e-6)


def test_b_steps_at_its_ratio_of_the_rate_of_a() -> None:
    """LoRA+: AdamW's first step is its rate; the state comes back to each weight."""
    names = ("unet.x.lora_A.weight", "unet.x.lora_B.weight", "unet.y.lora_B.weight")
    trained = TrainedWeights(
        names, tuple(nn.Parameter(torch.ones(2)) for _ in names), ("denoiser",) * 3
    )
    optimizer = make_optimizer(trained, settings(lora={"rate_ratio": 4.0}))
    take_step(optimizer, trained.weights, [torch.full((2,), 5.0)] * 3, RATES)  # type: ignore[arg-type]
    moved = [1.0 - weight[0].item() for weight in trained.weights]
    assert moved == pytest.approx([0.1, 0.4, 0.4], rel=1e-6)
    assert len(optimizer.param_groups) == 2
    assert len(make_optimizer(trained, settings()).param_groups) == 1


def test_token_vectors_are_not_decayed_and_the_rest_is() -> None:
    """Without a gradient, decay alone moves a weight: ``1 - rate * decay``."""
    trained = weights()
    optimizer = make_optimizer(trained, settings(weight_decay=0.5))
    take_step(optimizer, trained.weights, [torch.zeros(2)] * 4, RATES)  # type: ignore[arg-type]
    left = [weight[0].item() for weight in trained.weights]
    assert left == pytest.approx([1.0, 0.95, 0.9, 0.95])


def test_the_metric_is_what_adamw_multiplies_a_gradient_by() -> None:
    """After one step ``v / (1 - beta2) = g^2``: gradients 4 and 0.5 count 1/4 and 2."""
    trained = weights()
    optimizer = make_optimizer(trained, settings())
    assert optimizer_metric(optimizer, trained.weights) is None
    gradient = [torch.tensor([4.0, 0.5])] * 4
    take_step(optimizer, trained.weights, gradient, RATES)  # type: ignore[arg-type]
    metric = optimizer_metric(optimizer, trained.weights)
    assert metric is not None
    for part in metric:
        assert part.tolist() == pytest.approx([0.25, 2.0], rel=1e-5)


@pytest.mark.parametrize(("name", "size"), [("adamw", 2), ("adamw_8bit", 2), ("adamw_8bit", 4096)])
def test_the_state_comes_back_to_each_weight_its_own(name: str, size: int) -> None:
    """Each weight has another gradient; groups are not in the order of the weights."""
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    gradients = [torch.linspace(0.1, index + 1.0, size) for index in range(4)]
    trained, again = weights(size), weights(size)
    optimizer = make_optimizer(trained, settings(optimizer=name))
    for _ in range(3):
        take_step(optimizer, trained.weights, gradients, RATES)  # type: ignore[arg-type]
    kept = {tensor.dtype for tensor in state_tensors(optimizer, trained.weights).values()}
    assert (torch.uint8 in kept) == (size == 4096)  # smaller ones it keeps in full
    other = make_optimizer(again, settings(optimizer=name))
    restore(other, again.weights, state_tensors(optimizer, trained.weights))
    with torch.no_grad():
        for weight, value in zip(again.weights, trained.weights, strict=True):
            weight.copy_(value)
    for of, on in ((optimizer, trained), (other, again)):
        take_step(of, on.weights, gradients[::-1], RATES)  # type: ignore[arg-type]
    for one, two in zip(trained.weights, again.weights, strict=True):
        assert torch.equal(one, two)


def test_eight_bit_moments_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(TrainingError, match=r"adamw_8bit needs bitsandbytes.*pip install"):
        make_optimizer(weights(), settings(optimizer="adamw_8bit"))


def test_eight_bit_moments_are_those_of_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stood in for by AdamW: it is given the same groups."""

    class AdamW8bit(torch.optim.AdamW):
        pass

    module = types.SimpleNamespace(AdamW8bit=AdamW8bit)
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.SimpleNamespace(optim=module))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    optimizer = make_optimizer(weights(), settings(optimizer="adamw_8bit", weight_decay=0.5))
    assert isinstance(optimizer, AdamW8bit)
    decays = {group["group"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {"embedding": 0.0, "denoiser": 0.5, "text_encoder": 0.5}


def test_token_vectors_decay_where_it_is_asked_for() -> None:
    optimizer = make_optimizer(weights(), settings(embedding_weight_decay=0.25))
    decays = {group["group"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {"embedding": 0.25, "denoiser": 0.0, "text_encoder": 0.0}


def test_the_optimizers_metric_needs_its_moments() -> None:
    with pytest.raises(ValidationError, match="which adamw_8bit does not keep"):
        settings(optimizer="adamw_8bit", contrast={"metric": "optimizer"})


def test_optimizers_are_those_of_their_packages_with_betas_and_eps() -> None:
    """A first step of each, beside the package's own on the same weights."""
    made: dict[str, Any] = {
        "prodigy": lambda w: prodigyopt.Prodigy(
            w, betas=(0.8, 0.9), eps=1e-5, use_bias_correction=True, safeguard_warmup=True
        ),
        "adamw_schedule_free": lambda w: schedulefree.AdamWScheduleFree(
            w, betas=(0.8, 0.9), eps=1e-5
        ),
        "adamw": lambda w: torch.optim.AdamW(w, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.0),
    }
    gradients = [torch.tensor([1.0, -3.0]) for _ in range(4)]
    for name, own in made.items():
        trained, theirs = weights(), weights()
        schedule = {"schedule": "constant"} if name == "adamw_schedule_free" else {}
        of = settings(optimizer=name, optimizer_betas=(0.8, 0.9), optimizer_eps=1e-5, **schedule)
        optimizer, plain = make_optimizer(trained, of), own(theirs.weights)
        if name == "adamw_schedule_free":
            plain.train()
        alike = dict.fromkeys(("denoiser", "text_encoder", "embedding"), 0.1)
        for group in plain.param_groups:
            group["lr"] = 0.1
        for _ in range(3):
            own_part = [part.clone() for part in gradients]  # some change it in place
            take_step(optimizer, trained.weights, own_part, alike)  # type: ignore[arg-type]
            for weight, part in zip(theirs.weights, gradients, strict=True):
                weight.grad = part.clone()
            plain.step()
        for one, two in zip(trained.weights, theirs.weights, strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adafactor", "optimizer_eps": 1e-8}, "not for adafactor"),
        ({"optimizer_betas": (0.9, 1.0)}, "from 0 to below 1"),
        ({"optimizer": "prodigy", "embedding_learning_rate": 0.5}, "one rate for all weights"),
        ({"optimizer": "adamw_schedule_free"}, "set schedule to constant"),
        ({"optimizer": "prodigy", "lora": {"rate_ratio": 2.0}}, "leave lora.rate_ratio out"),
        ({"optimizer": "prodigy", "contrast": {"metric": "optimizer"}}, "does not keep"),
    ],
)
def test_settings_that_do_not_go_with_an_optimizer_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


@pytest.mark.parametrize("name", ["prodigyopt", "schedulefree"])
def test_an_optimizer_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    of = {"prodigyopt": "prodigy", "schedulefree": "adamw_schedule_free"}[name]
    with pytest.raises(TrainingError, match=rf"needs {name}.*nsync-pipeline\[optimizers\]"):
        make_optimizer(weights(), settings(optimizer=of, schedule="constant"))
