"""The forward process and its targets at signal 0.8 and noise 0.6."""

import pytest
import torch

from nsync_pipeline.diffusion.objectives import (
    noisy_latents,
    per_sample_loss,
    prediction_target,
    scales_at,
)

LATENTS = torch.tensor([10.0, -5.0]).view(2, 1, 1, 1)
NOISE = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1)
SIGNAL = torch.full((2, 1, 1, 1), 0.8)
SIGMA = torch.full((2, 1, 1, 1), 0.6)


def test_noisy_latents_mix_signal_and_noise() -> None:
    """``0.8 * 10 + 0.6 * 2 = 9.2`` and ``0.8 * -5 + 0.6 * 1 = -3.4``."""
    noisy = noisy_latents(LATENTS, NOISE, SIGNAL, SIGMA)
    assert noisy.flatten().tolist() == pytest.approx([9.2, -3.4])


def test_each_sample_has_the_scale_of_its_own_entry() -> None:
    scale = torch.tensor([1.0, 0.8, 0.0], dtype=torch.float64)
    found = scales_at(torch.tensor([0, 2]), scale, like=LATENTS)
    assert found.shape == (2, 1, 1, 1)
    assert found.dtype == LATENTS.dtype
    assert found.flatten().tolist() == [1.0, 0.0]


def test_epsilon_asks_for_the_noise() -> None:
    assert torch.equal(prediction_target("epsilon", LATENTS, NOISE, SIGNAL, SIGMA), NOISE)


def test_v_prediction_asks_for_the_velocity() -> None:
    """``0.8 * 2 - 0.6 * 10 = -4.4`` and ``0.8 * 1 - 0.6 * -5 = 3.8``."""
    target = prediction_target("v_prediction", LATENTS, NOISE, SIGNAL, SIGMA)
    assert target.flatten().tolist() == pytest.approx([-4.4, 3.8])


def test_flow_asks_for_the_straight_way_from_picture_to_noise() -> None:
    """``2 - 10 = -8`` and ``1 + 5 = 6``."""
    target = prediction_target("flow", LATENTS, NOISE, SIGNAL, SIGMA)
    assert target.flatten().tolist() == [-8.0, 6.0]


def test_signal_follows_from_noisy_latents_and_velocity() -> None:
    """``x_0 = signal x_t - sigma v``, whatever the latents."""
    noisy = noisy_latents(LATENTS, NOISE, SIGNAL, SIGMA)
    v = prediction_target("v_prediction", LATENTS, NOISE, SIGNAL, SIGMA)
    torch.testing.assert_close(0.8 * noisy - 0.6 * v, LATENTS)


def test_another_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'sample' is none of"):
        prediction_target("sample", LATENTS, NOISE, SIGNAL, SIGMA)


def test_the_loss_is_a_mean_a_sample() -> None:
    """Errors (1, 3) and (0, 2): ``(1 + 9) / 2 = 5`` and ``(0 + 4) / 2 = 2``."""
    prediction = torch.tensor([[1.0, 3.0], [0.0, 2.0]]).view(2, 2, 1, 1)
    assert per_sample_loss(prediction, torch.zeros(2, 2, 1, 1)).tolist() == [5.0, 2.0]


def test_the_loss_of_a_half_precision_prediction_is_taken_in_float32() -> None:
    """In float16, 300 squared is infinite."""
    prediction = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)
    loss = per_sample_loss(prediction, torch.zeros(1, 1, 1, 1))
    assert loss.tolist() == [90_000.0]
