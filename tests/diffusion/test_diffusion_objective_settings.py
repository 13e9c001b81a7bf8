"""Loss, weighting and timestep sampling: by hand, and against diffusers."""

import math
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr

from nsync_pipeline.diffusion.config import ObjectiveConfig
from nsync_pipeline.diffusion.draws import draw
from nsync_pipeline.diffusion.objectives import (
    min_snr_weights,
    noisy_latents,
    per_sample_loss,
    prediction_target,
    scales_at,
    zero_terminal_signal,
)
from nsync_pipeline.errors import TrainingError

BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def scales(scheduler: Any) -> tuple[torch.Tensor, torch.Tensor]:
    alphas = scheduler.alphas_cumprod.double()
    return alphas.sqrt(), (1.0 - alphas).sqrt()


def test_huber_is_square_when_small_and_a_line_when_large() -> None:
    """``2 d (sqrt(r^2 + d^2) - d)`` with d = 3: r = 4 gives 6 (5 - 3) = 12, r = 0 gives 0."""
    huber = ObjectiveConfig(loss="huber", huber_delta=3.0)
    prediction = torch.tensor([4.0, 0.0]).view(1, 2, 1, 1)
    assert per_sample_loss(prediction, torch.zeros(1, 2, 1, 1), huber).tolist() == [6.0]
    small = torch.full((1, 1, 1, 1), 1e-3)
    assert float(per_sample_loss(small, torch.zeros_like(small), huber)) == pytest.approx(1e-6)
    large = torch.full((1, 1, 1, 1), 1e4)
    found = float(per_sample_loss(large, torch.zeros_like(large), huber))
    assert found == pytest.approx(2 * 3 * 1e4, rel=1e-3)


def test_huber_has_a_gradient_where_the_error_is_zero() -> None:
    error = torch.zeros(1, 1, 1, 1, requires_grad=True)
    huber = ObjectiveConfig(loss="huber")
    loss = per_sample_loss(error, torch.zeros_like(error), huber).sum()
    (gradient,) = torch.autograd.grad(loss, [error])
    assert gradient.item() == 0.0


def test_min_snr_weights_by_hand() -> None:
    """SNR 1/4, 4, 16 at gamma 5: for epsilon 1, 1, 5/16; for v 1/5, 4/5, 5/17."""
    ratio = torch.tensor([0.25, 4.0, 16.0], dtype=torch.float64)
    signal, noise = (ratio / (1 + ratio)).sqrt(), (1 / (1 + ratio)).sqrt()
    epsilon = min_snr_weights("epsilon", signal, noise, 5.0)
    assert epsilon.tolist() == pytest.approx([1.0, 1.0, 0.3125])
    v = min_snr_weights("v_prediction", signal, noise, 5.0)
    assert v.tolist() == pytest.approx([0.2, 0.8, 5 / 17])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_the_diffusers_scripts(prediction_type: str) -> None:
    scheduler = DDPMScheduler(**BETAS)
    snr = compute_snr(scheduler, torch.arange(1000)).double()
    expected = snr.clamp(max=5.0) / (snr if prediction_type == "epsilon" else snr + 1)
    found = min_snr_weights(prediction_type, *scales(scheduler), 5.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_min_snr_is_defined_at_both_ends() -> None:
    """Without noise the weight of v tends to 0 (gamma / SNR); without signal it is SNR = 0."""
    signal = torch.tensor([1.0, 0.0], dtype=torch.float64)
    noise = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert min_snr_weights("v_prediction", signal, noise, 5.0).tolist() == [0.0, 0.0]


def test_min_snr_is_refused_for_flow() -> None:
    even = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    with pytest.raises(TrainingError, match=r"min_snr_gamma.*predicts flow: set it to null"):
        min_snr_weights("flow", 1 - even, even, 5.0)


def test_zero_terminal_snr_is_that_of_diffusers() -> None:
    """Its last entry is 0, its first as before."""
    signal, _ = scales(DDIMScheduler(**BETAS))
    rescaled = zero_terminal_signal(signal)
    expected = DDIMScheduler(**BETAS, rescale_betas_zero_snr=True).alphas_cumprod.double().sqrt()
    torch.testing.assert_close(rescaled, expected, rtol=1e-3, atol=1e-4)
    assert rescaled[-1] == 0.0
    assert rescaled[0] == pytest.approx(float(signal[0]))


def test_zero_terminal_signal_by_hand() -> None:
    """(1, 0.6, 0.2): minus 0.2 and over 0.8, so (1, 0.5, 0)."""
    signal = torch.tensor([1.0, 0.6, 0.2], dtype=torch.float64)
    assert zero_terminal_signal(signal).tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_noising_and_velocity_are_those_of_diffusers() -> None:
    scheduler = DDPMScheduler(**BETAS, prediction_type="v_prediction")
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=generator)
    entries = torch.tensor([0, 500, 999])
    pair = [scales_at(entries, scale, like=latents) for scale in scales(scheduler)]
    torch.testing.assert_close(
        noisy_latents(latents, noise, *pair), scheduler.add_noise(latents, noise, entries)
    )
    torch.testing.assert_close(
        prediction_target("v_prediction", latents, noise, *pair),
        scheduler.get_velocity(latents, noise, entries),
    )


def test_flow_noising_is_that_of_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    sigmas = scheduler.sigmas[:1000].flip(0).double()
    entries = torch.tensor([10, 700])
    told = scheduler.timesteps.flip(0)[entries]
    pair = [scales_at(entries, scale, like=latents) for scale in (1 - sigmas, sigmas)]
    noisy = noisy_latents(latents, noise, *pair)
    torch.testing.assert_close(noisy, scheduler.scale_noise(latents, told, noise))
    # One Euler step along the target, from there to no noise, arrives at the picture.
    target = prediction_target("flow", latents, noise, *pair)
    torch.testing.assert_close(noisy - pair[1] * target, latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"huber_delta": 0.5}, "huber_delta has no effect with loss mse.*set loss to huber"),
        ({"timestep_shift": 2.0}, "no effect with timestep_sampling uniform"),
        ({"timestep_sampling": "shift", "logit_mean": 1.0}, "set timestep_sampling to logit_n"),
        ({"timestep_sampling": "style_friendly", "timestep_min": 0.3}, "leave timestep_min and"),
    ],
)
def test_a_setting_without_an_effect_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ObjectiveConfig.model_validate(settings)


def shares(count: int = 4000, **settings: Any) -> torch.Tensor:
    """``count`` drawn entries of a schedule of 1000, over 1000."""
    objective = ObjectiveConfig(**settings)
    entries = draw(0, "positive", 0, range(count), (1,), 1000, objective).entries
    assert entries.dtype == torch.int64
    assert entries.min() >= 0
    assert entries.max() < 1000
    return entries.double() / 1000


def within_five_deviations(found: float, expected: float, deviation: float) -> bool:
    return abs(found - expected) < 5 * deviation


def test_logit_normal_has_its_quantiles() -> None:
    """Half of the draws are below sigmoid(m); 0.841 of them below sigmoid(m + s)."""
    drawn = shares(timestep_sampling="logit_normal", logit_mean=0.5, logit_std=0.8)
    for offset, expected in ((0.0, 0.5), (0.8, 0.8413)):
        below = float((drawn < 1 / (1 + math.exp(-0.5 - offset))).double().mean())
        assert within_five_deviations(below, expected, math.sqrt(expected * (1 - expected) / 4000))


def test_logit_normal_is_that_of_diffusers() -> None:
    """Both means are of 4,000 draws with a deviation of 0.21: they differ by 0.0047 a deviation."""
    drawn = shares(timestep_sampling="logit_normal", logit_mean=-1.0, logit_std=1.0)
    theirs = compute_density_for_timestep_sampling(
        "logit_normal", 4000, -1.0, 1.0, generator=torch.Generator().manual_seed(1)
    )
    assert abs(float(drawn.mean()) - float(theirs.mean())) < 5 * 0.0047


def test_shift_moves_draws_towards_noise() -> None:
    """``t = 3 u / (1 + 2 u)``: the median is 0.75, and a quarter is below 3/4 / 1.5 = 0.5."""
    drawn = shares(timestep_sampling="shift", timestep_shift=3.0)
    assert within_five_deviations(float((drawn < 0.75).double().mean()), 0.5, 0.0079)
    assert within_five_deviations(float((drawn < 0.5).double().mean()), 0.25, 0.0068)


def test_a_shift_of_one_is_uniform() -> None:
    drawn = shares(timestep_sampling="shift", timestep_shift=1.0)
    assert within_five_deviations(float(drawn.mean()), 0.5, 0.29 / math.sqrt(4000))


def straight_path(shift: float) -> torch.Tensor:
    """The noise of each of 1000 entries of a path that is shifted so."""
    even = torch.arange(1, 1001, dtype=torch.float64) / 1000
    return shift * even / (1.0 + (shift - 1.0) * even)


@pytest.mark.parametrize("shift", [1.0, 3.0, math.exp(1.15)])
def test_style_friendly_draws_are_as_noisy_whatever_the_path_is_shifted_by(shift: float) -> None:
    """Log-SNR ``2 log((1 - s) / s)`` of mean -6 and deviation 2, in entries as fine as they are:
    where ``s`` is ``a u / (1 + (a - 1) u)``, ``logit u`` is normal with mean ``3 - ln a``."""
    noise, friendly = straight_path(shift), ObjectiveConfig(timestep_sampling="style_friendly")
    drawn = draw(0, "positive", 0, range(4000), (1,), 1000, friendly, noise).entries
    other = ObjectiveConfig(timestep_sampling="logit_normal", logit_mean=3.0 - math.log(shift))
    alike = draw(0, "positive", 0, range(4000), (1,), 1000, other).entries
    assert torch.equal(drawn, alike)
    assert drawn.dtype == torch.int64
    at_least = noise[drawn]  # and less than an entry above what was drawn
    for deviations, expected in ((-1.0, 0.1587), (0.0, 0.5), (1.0, 0.8413)):
        bound = 1 / (1 + math.exp(-3.0 - deviations))
        below = float((at_least < bound).double().mean())
        most = float((noise[(drawn - 1).clamp(min=0)] < bound).double().mean())
        spread = 5 * math.sqrt(expected * (1 - expected) / 4000)
        assert below - spread < expected < most + spread


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "shift", "style_friendly"])
def test_a_sample_draws_the_same_in_any_micro_batch(sampling: str) -> None:
    objective, noise = (
        ObjectiveConfig.model_validate({"timestep_sampling": sampling}), straight_path(1.0)
    )  # fmt: skip
    whole = draw(0, "positive", 3, range(4), (1,), 1000, objective, noise)
    part = draw(0, "positive", 3, [2], (1,), 1000, objective, noise)
    assert part.entries[0] == whole.entries[2]
