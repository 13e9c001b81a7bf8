"""How often a step makes the host wait for the device: counted on the CPU, where it costs nothing.

What is asked of a tensor makes a GPU be waited for, unless the tensor came from there before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora, remove_lora
from nsync_pipeline.contrast.host import ToHost
from nsync_pipeline.families.family import Family
from nsync_pipeline.seeding import torch_stream
from nsync_pipeline.training.batches import BatchMaker
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.loop import train
from tests.support.tiny_training import LORA, examples, family

__all__ = ["examples", "family"]  # fixtures

WAITING = {"item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__"}
FACTORIES = {"zeros", "ones", "eye", "tensor"}


class OnHost(Tensor):
    """A tensor that came from the device, or was computed of such ones."""


class Waits(TorchFunctionMode):
    """Notes what is asked of tensors that are not ``OnHost``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.is_off = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, result = getattr(func, "__name__", ""), func(*args, **kwargs or {})
        if name in WAITING and not self.is_off and not isinstance(args[0], OnHost):
            self.found.append(name)
        # The refinement reckons with small matrices in float64, on the host.
        is_small = name in FACTORIES and result.dtype == torch.float64
        if name == "cpu" or (is_small and "device" not in (kwargs or {})):
            return result.as_subclass(OnHost)
        is_sent = name == "to" and any(isinstance(a, torch.device) for a in args)
        return result.as_subclass(Tensor) if is_sent and isinstance(result, OnHost) else result

    @contextmanager
    def off(self) -> Iterator[None]:
        self.is_off = True
        yield
        self.is_off = False

    def without(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """``plain``, which has to do with tensors on the host only."""

        def quiet(*args: Any, **kwargs: Any) -> Any:
            with self.off():
                return plain(*args, **kwargs)

        return quiet


@pytest.mark.parametrize(
    "changes",
    [
        {"update_rule": "orthogonal_anchor", "batch_size": 2, "accumulation": 2},
        {"update_rule": "orthogonal", "branches": "in_turn", "max_gradient_norm": 1e-6},
        {"update_rule": "none"},
    ],
    ids=["fused, two micro-batches", "in turn, clipped", "plain"],
)
def test_a_step_waits_for_the_device_twice(
    family: Family,
    examples: EncodedSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    waits = Waits()
    # Batches are made on the host; so is AdamW's count of steps; losses arrive by themselves.
    monkeypatch.setattr(BatchMaker, "batch", waits.without(BatchMaker.batch))
    adam = import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_get_value", waits.without(adam._get_value))
    monkeypatch.setattr(ToHost, "numbers", waits.without(ToHost.numbers))
    settings = TrainingConfig.model_validate({"steps": 3, "batch_size": 2, "lora": LORA} | changes)
    remove_lora(family)
    lora = add_lora(family, LoraSettings.model_validate(LORA), torch_stream(0, "lora"))
    by_step: list[list[str]] = []

    def on_step(record: object) -> None:
        by_step.append(list(waits.found))
        waits.found.clear()

    checkpoints = CheckpointFolder(tmp_path, {})
    with waits:
        train(family, lora, examples, settings, 0, checkpoints, on_step=on_step)
    assert by_step == [["cpu", "__float__"]] * 3
