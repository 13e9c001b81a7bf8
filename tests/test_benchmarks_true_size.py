"""The measurement at true sizes, at tiny ones."""

import pytest
import torch

from benchmarks.true_size import TINY, counted, training_step, untrained
from nsync_pipeline.families.placement import Placement


@pytest.mark.parametrize("model", TINY)
def test_a_tiny_model_takes_a_training_step_of_one_picture(model: str) -> None:
    family = untrained(model, Placement(torch.device("cpu"), torch.float32), tiny=True)

    training_step(family, "lora", batch=1, checkpointing=False)()


@pytest.mark.parametrize("model", ["sd15", "flux_1"])
def test_arithmetic_is_counted_on_shapes_alone(model: str) -> None:
    """A branch is a pass, one back to what is trained, and the LoRA's own products."""
    weights, forward, branch = counted(model, tiny=True)
    assert weights > 0
    assert 0 < 1.5 * forward < branch < 4 * forward
