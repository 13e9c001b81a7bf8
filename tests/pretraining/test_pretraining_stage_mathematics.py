"""The small formulas of the training stages, against numbers worked out by hand."""

import numpy as np
import pytest
import torch

from nsync_pipeline.sketchbook.world import HELD_OUT_STYLES
from pretraining.prompts import STYLE_WORDS, style_prompt, training_prompt
from pretraining.schedule import cosine_rate, update_average
from pretraining.unet import velocity
from pretraining.vae import difference_loss, moment_loss


def test_velocity_and_noisy_latents_give_back_clean_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(2))
    signal = torch.tensor([0.9, 0.2]).reshape(2, 1, 1, 1)
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    back = signal.sqrt() * noisy - (1 - signal).sqrt() * velocity(clean, noise, signal)
    torch.testing.assert_close(back, clean)


def test_difference_loss_ignores_an_even_offset() -> None:
    real = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert difference_loss(real + 0.25, real).item() == pytest.approx(0, abs=1e-6)


def test_difference_loss_of_columns_that_alternate() -> None:
    # neighbours in a row differ by 1, two apart by 0; nothing differs down a column:
    # (1 + 0 + 0 + 0) / 4
    columns = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 1, 4, 4)
    assert difference_loss(columns, torch.zeros(1, 1, 4, 4)).item() == pytest.approx(0.25)


def test_moment_loss_of_shifted_and_stretched_latents() -> None:
    # channel of -2, 2, ...: mean 0, unbiased deviation 2 sqrt(n / (n - 1)); n = 4: 2.3094
    latents = torch.tensor([-2.0, 2.0, -2.0, 2.0]).reshape(1, 1, 2, 2)
    assert moment_loss(latents).item() == pytest.approx((4 / 3**0.5 - 1) ** 2, rel=1e-5)
    assert moment_loss(latents + 3).item() == pytest.approx((4 / 3**0.5 - 1) ** 2 + 9, rel=1e-5)


def test_rate_rises_falls_and_ends_near_zero() -> None:
    rates = [cosine_rate(1.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 3)  # 3 % of 100 steps of warm-up
    assert max(rates) == rates[2] == 1.0
    assert rates[-1] < 0.001


def test_average_starts_close_to_the_weights() -> None:
    average, weight = torch.zeros(1), torch.ones(1)
    update_average([average], [weight], decay=0.999, step=0)  # decay (1 + 0) / (10 + 0)
    assert average.item() == pytest.approx(0.9)


def test_training_prompts_never_name_a_held_out_style() -> None:
    rng = np.random.default_rng(0)
    prompts = {training_prompt("a red cat", "oil", rng) for _ in range(500)}
    assert "" in prompts
    assert "a red cat" in prompts
    assert style_prompt("a red cat", "oil") in prompts
    assert style_prompt("a red cat", "painting") in prompts
    assert style_prompt("a red cat", "sks") in prompts
    assert not any(style in prompt for prompt in prompts for style in HELD_OUT_STYLES)
    assert not set(HELD_OUT_STYLES) & set(STYLE_WORDS)
