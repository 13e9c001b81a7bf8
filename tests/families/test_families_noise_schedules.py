"""The schedule that is trained on is the one the model's own scheduler draws by, or is refused."""

import diffusers
import pytest
import torch

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.noise_schedules import diffusion_schedule

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
BY_BETAS = (
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
    "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler",
    "TCDScheduler",
)  # fmt: skip
OTHERWISE = (
    "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler",
    "CMStochasticIterativeScheduler", "IPNDMScheduler", "CogVideoXDDIMScheduler",
)  # fmt: skip


@pytest.mark.parametrize("name", BY_BETAS)
def test_schedulers_by_betas_are_taken_as_they_are(name: str) -> None:
    """``a_t = prod (1 - b_s)`` with ``sqrt(b)`` from sqrt(.00085) to sqrt(.012)."""
    schedule = diffusion_schedule("a model", getattr(diffusers, name)(**BETAS))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    signal = torch.cumprod(1 - betas, 0).sqrt()
    torch.testing.assert_close(schedule.signal, signal, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OTHERWISE)
def test_schedulers_of_another_kind_are_refused(name: str) -> None:
    with pytest.raises(BaseModelError, match=rf"its scheduler is {name}, which does not say by"):
        diffusion_schedule("a model", getattr(diffusers, name)())


def test_a_schedule_that_ends_in_noise_alone_is_taken_so() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(
        **BETAS, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    schedule = diffusion_schedule("a model", scheduler)
    assert schedule.prediction_type == "v_prediction"
    assert schedule.signal[-1] == 0.0


def test_paths_of_flow_matching_are_not_taken_for_betas() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(**BETAS, use_flow_sigmas=True)
    with pytest.raises(BaseModelError, match="predicts 'flow'"):
        diffusion_schedule("a model", scheduler)
