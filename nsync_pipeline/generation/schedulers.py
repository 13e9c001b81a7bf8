"""The diffusers scheduler that takes the steps of a sampler."""

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

from nsync_pipeline.families.family import Family
from nsync_pipeline.generation.config import SamplerConfig

NOISE_SETTINGS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
    "prediction_type", "rescale_betas_zero_snr",
)  # fmt: skip
"""What a scheduler must share with the model; all else is the sampler's own."""


def build_scheduler(family: Family, sampler: SamplerConfig) -> Any:
    """A fresh scheduler for one batch, with the timesteps of ``sampler`` set.

    ``dpm``, ``ddim`` and ``euler`` take their timesteps from the last one down ("trailing"), so
    that the first step starts at the noise the picture is drawn from; ``pndm`` is set as Stable
    Diffusion 1 ships it; ``model`` is the model's own, with its own settings.
    """
    settings = {
        name: family.scheduler.config[name]
        for name in NOISE_SETTINGS
        if name in family.scheduler.config
    }
    scheduler: Any
    if sampler.scheduler == "model":
        scheduler = type(family.scheduler).from_config(family.scheduler.config)
    elif sampler.scheduler == "dpm":
        scheduler = DPMSolverMultistepScheduler.from_config(
            settings, algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing"
        )
    elif sampler.scheduler == "ddim":
        scheduler = DDIMScheduler.from_config(
            settings, clip_sample=False, timestep_spacing="trailing"
        )
    elif sampler.scheduler == "euler":
        scheduler = EulerDiscreteScheduler.from_config(settings, timestep_spacing="trailing")
    else:
        scheduler = PNDMScheduler.from_config(settings, skip_prk_steps=True, steps_offset=1)
    scheduler.set_timesteps(sampler.steps, device=family.device)
    return scheduler
