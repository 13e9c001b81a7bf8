"""The measurement at true sizes, at tiny ones."""

import pytest
import torch

from benchmarks.true_size import TINY, training_step, untrained
from nsync_pipeline.families.placement import Placement


@pytest.mark.parametrize("model", TINY)
def test_a_tiny_model_takes_a_training_step_of_one_picture(model: str) -> None:
    family = untrained(model, Placement(torch.device("cpu"), torch.float32), tiny=True)

    training_step(family, "lora", batch=1, checkpointing=False)()
