"""However a training is taken — in parts, interrupted, short of memory, in half precision — it is
the same training."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from nsync_pipeline.adaptation.lora import lora_weights, remove_lora
from nsync_pipeline.adaptation.lora_file import save_lora
from nsync_pipeline.adaptation.trainables import add_trainables
from nsync_pipeline.contrast.branch_gradients import BranchPass
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family, PromptEmbeds
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.loop import TrainingOutcome, train
from nsync_pipeline.training.optimizer import LossScale
from tests.support import training_memory
from tests.support.tiny_training import LORA, examples, family, largest_difference

__all__ = ["examples", "family"]  # fixtures

SETTINGS: dict[str, Any] = {
    "update_rule": "orthogonal_anchor",
    "steps": 8,
    "batch_size": 3,
    "accumulation": 2,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "ema_decay": 0.8,
    "keep": "best",
    "contrast": {"negative_estimate": "running_basis", "basis_size": 3},
    "lora": LORA,
    "watch": {"every": 2},
    "checkpoint_every": 3,
}


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(SETTINGS | changes)


def run(
    family: Family,
    examples: EncodedSet,
    folder: Path,
    of: TrainingConfig,
    on_step: Callable[[StepRecord], None] = lambda record: None,
    look: Callable[[int], float | None] | None = None,
) -> tuple[TrainingOutcome, list[Tensor]]:
    """Train a fresh LoRA, from the newest checkpoint in ``folder`` on; the outcome and weights."""
    remove_lora(family)
    assert of.lora is not None
    lora = add_trainables(family, of.lora, None, torch_stream(0, "lora"))
    outcome = train(
        family, lora, examples, of, 0, CheckpointFolder(folder, {}), on_step=on_step, look=look
    )
    return outcome, [weight.detach().clone() for weight in lora.weights]


def stop_at(step: int) -> Callable[[StepRecord], None]:
    def on_step(record: StepRecord) -> None:
        if record.step == step:
            raise KeyboardInterrupt

    return on_step


def score_of(step: int) -> float | None:
    """The looks at 2, 4, 6 and 8 score 0.2, 0.9, 0.5 and nothing."""
    return {2: 0.2, 4: 0.9, 6: 0.5}.get(step)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_interrupted_anywhere_it_goes_on_to_the_same_bits(
    tiny_base: Path, examples: EncodedSet, tmp_path: Path, dtype: Any
) -> None:
    """Checkpoints at 3, 6 and 8; the look at 4, between two of them, is the best. In float16 the
    scale is kept, too."""
    base = load_family(BaseModelConfig(name=str(tiny_base), device="cpu", dtype=dtype))
    unbroken, a = run(base, examples, tmp_path / "a", settings(), look=score_of)
    for stop in (2, 5, 5, 7):
        with pytest.raises(KeyboardInterrupt):
            run(base, examples, tmp_path / "b", settings(), stop_at(stop), score_of)
    seen: list[int] = []
    resumed, b = run(
        base,
        examples,
        tmp_path / "b",
        settings(),
        lambda record: seen.append(record.step),
        score_of,
    )
    assert largest_difference(a, b) == 0.0
    assert resumed == unbroken
    assert resumed.kept_step == 4
    assert seen == list(range(1, 9))
    assert (unbroken.history[0].loss_scale is not None) == (dtype == "float16")


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adafactor": {},
    "prodigy": {"learning_rate": 1.0, "optimizer_betas": (0.8, 0.95)},
    "adamw_schedule_free": {"schedule": "constant", "optimizer_eps": 1e-6},
    # Of matrices of 4,096 numbers and more it keeps the moments in 8 bits.
    "adamw_8bit": {"lora": {"rank": 256, "alpha": 2.0}},
}
OTHERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "adamw_8bit" and find_spec("bitsandbytes") is None, reason="an extra"
        ),
    )
    for name in OPTIMIZERS
]


def test_every_optimizer_is_tried() -> None:
    """AdamW with all else that is kept, above."""
    offered = get_args(TrainingConfig.model_fields["optimizer"].annotation)
    assert {"adamw", *OPTIMIZERS} == set(offered)


@pytest.mark.parametrize("name", OTHERS)
def test_with_any_optimizer_it_goes_on_to_the_same_bits(
    family: Family, examples: EncodedSet, tmp_path: Path, name: str
) -> None:
    """Looks are at the weights that would be saved, and leave no trace in what is trained."""
    changes = {"optimizer": name, "ema_decay": None, "keep": "last", "steps": 5}
    of = settings(**changes, **OPTIMIZERS[name])
    seen: dict[int, list[Tensor]] = {}

    def look(step: int) -> None:
        seen[step] = [w.detach().clone() for w in lora_weights(family).weights]

    unbroken, a = run(family, examples, tmp_path / "a", of, look=look)
    with pytest.raises(KeyboardInterrupt):
        run(family, examples, tmp_path / "b", of, stop_at(4))
    resumed, b = run(family, examples, tmp_path / "b", of)
    assert largest_difference(a, b) == 0.0
    assert resumed == unbroken
    assert largest_difference(a, seen[5]) == 0.0
    assert largest_difference(seen[0], seen[5]) > 0


ADAPTERS: dict[str, dict[str, Any]] = {
    "lokr": {"kind": "lokr"},
    "loha": {"kind": "loha"},
    "dropout": {"dropout": 0.3, "rate_ratio": 4.0, "start_from": "old.safetensors"},
}


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_with_any_adapter_it_goes_on_to_the_same_bits(
    family: Family,
    examples: EncodedSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    adapter: dict[str, Any],
) -> None:
    """And in turn to the same but for rounding: what is dropped hangs on the samples alone."""
    monkeypatch.chdir(tmp_path)
    remove_lora(family)
    old = [w + 0.01 for w in add_trainables(family, LORA, None, torch_stream(1, "lora")).weights]
    for weight, value in zip(lora_weights(family).weights, old, strict=True):
        weight.data.copy_(value)
    save_lora(family, tmp_path / "old.safetensors", {})
    small = {"steps": 3, "batch_size": 2, "accumulation": 1, "checkpoint_every": 1}
    of = settings(lora=LORA.model_dump() | adapter, branches="fused", **small)
    unbroken, a = run(family, examples, tmp_path / "a", of)
    with pytest.raises(KeyboardInterrupt):
        run(family, examples, tmp_path / "b", of, stop_at(2))
    resumed, b = run(family, examples, tmp_path / "b", of)
    assert largest_difference(a, b) == 0.0
    assert resumed == unbroken
    in_turn = of.model_copy(update={"branches": "in_turn"})
    other, c = run(family, examples, tmp_path / "c", in_turn)
    assert largest_difference(a, c) < 1e-3
    assert [r.loss_negative for r in other.history] == pytest.approx(
        [r.loss_negative for r in unbroken.history], rel=1e-4
    )
    if "dropout" in adapter:
        assert of.lora is not None
        without = of.model_copy(update={"lora": of.lora.model_copy(update={"dropout": 0.0})})
        _, d = run(family, examples, tmp_path / "d", without)
        assert largest_difference(a, d) > 1e-3
        assert largest_difference(a, old) < 0.5  # three steps of at most 0.04 of B, or 0.01


STARTS: dict[str, dict[str, Any]] = {
    "dora": {"dora": True},
    "pissa": {"start": "pissa"},
    "text_encoder": {"text_encoder": True, "rank_stabilized": True, "ranks": {"to_q": 3}},
}


@pytest.mark.parametrize("lora", STARTS.values(), ids=STARTS)
def test_with_any_form_of_a_lora_it_goes_on_to_the_same_bits(
    family: Family, examples: EncodedSet, tmp_path: Path, lora: dict[str, Any]
) -> None:
    """Their frozen parts, and what a length starts from, are not in a checkpoint."""
    of = settings(lora=LORA.model_dump() | lora, steps=3, checkpoint_every=1)
    unbroken, a = run(family, examples, tmp_path / "a", of)
    with pytest.raises(KeyboardInterrupt):
        run(family, examples, tmp_path / "b", of, stop_at(2))
    resumed, b = run(family, examples, tmp_path / "b", of)
    assert largest_difference(a, b) == 0.0
    assert resumed == unbroken
    assert (unbroken.branches == "in_turn") == ("dora" in lora)


def test_the_best_weights_are_the_average_at_their_look(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    seen: dict[int, list[Tensor]] = {}

    def look(step: int) -> float | None:
        seen[step] = [w.detach().clone() for w in lora_weights(family).weights]
        return score_of(step)

    best, kept = run(family, examples, tmp_path / "best", settings(), look=look)
    assert (best.kept_step, sorted(seen)) == (4, [0, 2, 4, 6, 8])
    assert largest_difference(kept, seen[4]) == 0.0
    last, kept = run(family, examples, tmp_path / "last", settings(keep="last"), look=look)
    assert last.kept_step == 8
    assert largest_difference(kept, seen[8]) == 0.0
    assert largest_difference(seen[4], seen[8]) > 1e-3


def test_without_any_score_the_last_weights_are_kept(
    family: Family, examples: EncodedSet, tmp_path: Path
) -> None:
    outcome, _ = run(family, examples, tmp_path, settings(), look=lambda step: None)
    assert outcome.kept_step == 8


@pytest.mark.parametrize("batch_size", [6, 4, 1])
def test_micro_batches_of_any_size_are_one_batch(
    tiny_base: Path, examples: EncodedSet, tmp_path: Path, batch_size: int
) -> None:
    """In float64. Six samples as 6, as 4 and 2 (they count 2/3 and 1/3), and one by one."""
    base = load_family(BaseModelConfig(name=str(tiny_base), device="cpu", dtype="float64"))
    whole = settings(batch_size=6, accumulation=1, steps=3)
    expected, _ = run(base, examples, tmp_path / "whole", whole)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("nsync_pipeline.training.loop.BranchPass", in_parts_of(batch_size))
        found, _ = run(base, examples, tmp_path / "parts", whole)
    for one, other in zip(expected.history, found.history, strict=True):
        assert other.loss_negative == pytest.approx(one.loss_negative, rel=1e-12)
        assert other.norm_positive == pytest.approx(one.norm_positive, rel=1e-5)


def in_parts_of(size: int) -> Callable[..., Any]:
    def made(*arguments: Any, **named: Any) -> BranchPass:
        given: list[Any] = [*arguments[:-1], size]
        return BranchPass(*given, **named)

    return made


class Hungry:
    """A family whose memory holds only so many rows a pass."""

    def __init__(self, family: Family, fits: int) -> None:
        self.family, self.fits = family, fits
        self.largest = 0

    def __call__(self) -> Family:
        hungry = copy.copy(self.family)
        of, rows = self, self.fits

        def predict(latents: Tensor, *rest: Any) -> Tensor:
            if len(latents) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            of.largest = max(of.largest, len(latents))
            return of.family.predict(latents, *rest)

        hungry.predict = predict  # type: ignore[assignment, method-assign]
        return hungry


def test_short_of_memory_it_trains_the_same_and_remembers(
    family: Family, examples: EncodedSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Six samples of three branches: 18 rows do not fit, nor 6, but 3 do. Interrupted and gone on
    with, it does not try again what did not fit."""
    of = settings(batch_size=6, accumulation=1)
    plenty, a = run(family, examples, tmp_path / "plenty", of)
    hungry = Hungry(family, fits=3)
    with pytest.raises(KeyboardInterrupt):
        run(hungry(), examples, tmp_path / "short", of, stop_at(5))
    assert hungry.largest == 3
    assert caplog.text.count("out of memory; from now on") == 2
    caplog.clear()
    short, b = run(hungry(), examples, tmp_path / "short", of)
    assert "out of memory" not in caplog.text
    assert (plenty.branches, short.branches) == ("fused", "in_turn")
    assert largest_difference(a, b) < 1e-3  # eight steps of AdamW at a rate of 0.01
    for one, other in zip(plenty.history, short.history, strict=True):
        assert other.loss_positive == pytest.approx(one.loss_positive, rel=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limit is Linux's")
def test_a_process_that_the_kernel_gives_no_more_memory_trains_the_same(tiny_base: Path) -> None:
    """96 triplets at once take about 100 MB: 30 are given."""
    limited = subprocess.run(
        [sys.executable, training_memory.__file__, str(tiny_base), "30"],
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "out of memory; from now on a pass a branch" in limited.stderr
    found, expected = json.loads(limited.stdout), training_memory.trained(tiny_base, None)
    assert (found["branches"], expected["branches"]) == ("in_turn", "fused")
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)


@pytest.mark.parametrize("branches", ["fused", "in_turn"])
def test_checkpointed_activations_change_nothing(
    family: Family, examples: EncodedSet, tmp_path: Path, branches: str
) -> None:
    calls: list[int] = []
    hook = family.denoiser.get_submodule("up_blocks.1.resnets.0").register_forward_pre_hook(
        lambda *_: calls.append(1)
    )
    _, a = run(family, examples, tmp_path / "kept", settings(branches=branches, steps=3))
    kept = len(calls)
    of = settings(branches=branches, steps=3, gradient_checkpointing=True)
    _, b = run(family, examples, tmp_path / "again", of)
    hook.remove()
    assert len(calls) - kept == 2 * kept  # each pass once more on the way back
    assert largest_difference(a, b) < 1e-6
    assert not any(getattr(m, "gradient_checkpointing", False) for m in family.denoiser.modules())


def test_an_overflow_voids_the_step_in_all_branches_and_is_tried_again_at_half_the_scale(
    tiny_base: Path, examples: EncodedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a scale of 2^60 real float16 gradients overflow; each try halves it."""
    base = load_family(BaseModelConfig(name=str(tiny_base), device="cpu", dtype="float16"))
    of = settings(steps=3)
    right, a = run(base, examples, tmp_path / "right", of)
    assert [record.overflows for record in right.history] == [0, 0, 0]
    monkeypatch.setattr("nsync_pipeline.training.loop.LossScale", lambda: LossScale(2.0**60))
    outcome, b = run(base, examples, tmp_path / "high", of)
    overflows = outcome.history[0].overflows
    assert overflows is not None
    assert overflows > 10
    assert outcome.history[0].loss_scale == 2.0 ** (60 - overflows)
    assert [record.overflows for record in outcome.history[1:]] == [0, 0]
    assert len(outcome.history) == 3
    for one, other in zip(right.history, outcome.history, strict=True):
        assert other.norm_negative == pytest.approx(one.norm_negative, rel=0.05)
    assert all(bool(weight.isfinite().all()) for weight in [*a, *b])


def test_a_gradient_that_is_not_finite_names_its_pictures_once_no_scale_helps(
    tiny_base: Path, examples: EncodedSet, tmp_path: Path
) -> None:
    """``sqrt`` at 0 has a finite value and no finite slope: so has the loss of picture p2."""
    base = load_family(BaseModelConfig(name=str(tiny_base), device="cpu", dtype="float16"))
    broken = copy.copy(base)
    marked = examples.encoded_prompts.embeds([examples.prompts[2]]).tokens[0]

    def predict(latents: Tensor, times: Tensor, prompts: PromptEmbeds, *rest: Any) -> Tensor:
        predicted = base.predict(latents, times, prompts, *rest)
        is_p2 = (prompts.tokens == marked).flatten(1).all(dim=1)
        found = predicted.clone()
        found[is_p2] = predicted[is_p2] + (predicted[is_p2] * 0.0).sqrt()
        return found

    broken.predict = predict  # type: ignore[assignment, method-assign]
    whole = settings(batch_size=4, accumulation=1)  # every picture once
    where = r"step 1: the gradient of the positive branch is not finite \(pictures p2\)"
    with pytest.raises(TrainingError, match=where):
        run(broken, examples, tmp_path, whole)
