"""The average of the weights, by hand."""

import pytest
import torch
from torch import nn

from nsync_pipeline.training.state import WeightAverage


def test_it_follows_the_weights_by_hand() -> None:
    """From 1. After step 1 ``d = min(0.9, 2/11)``: ``2/11 * 1 + 9/11 * 3 = 29/11``. After step 2
    ``d = 3/12``: ``29/44 + 3/4 * 5 = 194/44``."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    average = WeightAverage([weight], decay=0.9)
    weight.data.fill_(3.0)
    average.update(1)
    assert average.tensors[0].item() == pytest.approx(29 / 11, rel=1e-12)
    weight.data.fill_(5.0)
    average.update(2)
    assert average.tensors[0].item() == pytest.approx(194 / 44, rel=1e-12)


def test_late_in_a_training_its_decay_is_what_was_asked_for() -> None:
    """``(1 + 1000) / (10 + 1000) = 0.991 > 0.5``: half of 0 and half of 4."""
    weight = nn.Parameter(torch.zeros(1))
    average = WeightAverage([weight], decay=0.5)
    weight.data.fill_(4.0)
    average.update(1000)
    assert average.tensors[0].item() == 2.0


def test_while_it_is_in_place_the_weights_are_the_average_and_then_their_own_again() -> None:
    weight = nn.Parameter(torch.ones(2))
    average = WeightAverage([weight], decay=0.9)
    weight.data.fill_(7.0)
    with average.in_place():
        assert weight.tolist() == [1.0, 1.0]
    assert weight.tolist() == [7.0, 7.0]
