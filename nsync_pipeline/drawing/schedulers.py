"""The diffusers scheduler that takes the steps of a sampler."""

import math
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.noise_schedules import SizedSchedule

NOISE_SETTINGS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
    "prediction_type", "rescale_betas_zero_snr",
)  # fmt: skip
"""What a scheduler must share with the model; all else is the sampler's own."""

FLOW_SAMPLERS = ("model", "dpm", "euler")


def build_scheduler(
    family: Family, sampler: SamplerConfig, size: tuple[int, int] | None = None
) -> Any:
    """A fresh scheduler for one batch, with the timesteps of ``sampler`` set.

    ``size`` is that of the latents, which some models' timesteps depend on; None: the square's.

    ``dpm``, ``ddim`` and ``euler`` take their timesteps from the last one down ("trailing"), so
    that the first step starts at the noise the picture is drawn from; ``pndm`` is set as Stable
    Diffusion 1 ships it; ``model`` is the model's own, with its own settings. Of flow-matching
    models, ``euler`` is what their pipelines use, and ``dpm`` DPM-Solver++ 2M on the same path.

    Raises:
        BaseModelError: the sampler has no form for flow matching, and the model is of that kind;
            or none for a zero terminal signal-to-noise ratio, and the model has it.
    """
    if family.noise_schedule.prediction_type == "flow":
        return _flow_scheduler(family, sampler, size)
    own = family.scheduler.config
    settings = {name: own[name] for name in NOISE_SETTINGS if name in own}
    trailing = {"timestep_spacing": "trailing"}
    scheduler: Any
    if sampler.scheduler == "model":
        scheduler = type(family.scheduler).from_config(family.scheduler.config)
    elif sampler.scheduler == "dpm":
        scheduler = DPMSolverMultistepScheduler.from_config(
            settings, algorithm_type="dpmsolver++", solver_order=2, **trailing
        )
    elif sampler.scheduler == "ddim":
        scheduler = DDIMScheduler.from_config(settings, clip_sample=False, **trailing)
    elif sampler.scheduler == "euler":
        scheduler = EulerDiscreteScheduler.from_config(settings, **trailing)
    elif settings.get("rescale_betas_zero_snr"):
        raise BaseModelError(
            "sampler.scheduler: pndm cannot draw from noise alone, which the zero terminal SNR of "
            f"{family.name} or its LoRA asks for; take dpm, ddim or euler."
        )
    else:
        scheduler = PNDMScheduler.from_config(settings, skip_prk_steps=True, steps_offset=1)
    scheduler.set_timesteps(sampler.steps, device=family.device)
    return scheduler


def _flow_scheduler(family: Family, sampler: SamplerConfig, size: tuple[int, int] | None) -> Any:
    if sampler.scheduler not in FLOW_SAMPLERS:
        raise BaseModelError(
            f"sampler.scheduler: {sampler.scheduler} has no form for flow matching, which "
            f"{family.name} was trained by; take {', '.join(FLOW_SAMPLERS)}."
        )
    model: Any = family.scheduler.config
    schedule, steps = family.noise_schedule, sampler.steps
    shift = model.shift
    if isinstance(schedule, SizedSchedule):
        height, width = size or family.latent_shape[1:]
        shift = schedule.shift_of(height * width, steps)
    scheduler: Any
    if sampler.scheduler == "dpm":
        scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=model.num_train_timesteps,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=shift,
            algorithm_type="dpmsolver++",
            solver_order=2,
        )
        scheduler.set_timesteps(steps, device=family.device)
        # diffusers rounds them down to whole numbers; the model was told T s itself in training.
        exact = scheduler.sigmas[:-1] * model.num_train_timesteps
        scheduler.timesteps = exact.to(family.device)
    elif isinstance(schedule, SizedSchedule):  # as their pipelines call it; Euler's is their own
        scheduler = type(family.scheduler).from_config(model)
        even = np.linspace(1.0, 1.0 / steps, steps)
        mu = shift if model.time_shift_type == "linear" else math.log(shift)
        scheduler.set_timesteps(sigmas=even, mu=mu, device=family.device)
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(model.num_train_timesteps, model.shift)
        if sampler.scheduler == "model":
            scheduler = type(family.scheduler).from_config(model)
        scheduler.set_timesteps(steps, device=family.device)
    return scheduler


def starting_latents(scheduler: Any, noise: Tensor) -> Tensor:
    """What ``scheduler`` starts from, of standard normal ``noise``."""
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)  # flow matching: the noise itself


def denoiser_input(scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """``latents`` of a step as the denoiser was trained to take them."""
    if not hasattr(scheduler, "scale_model_input"):
        return latents  # flow matching
    return torch.as_tensor(scheduler.scale_model_input(latents, timestep))
