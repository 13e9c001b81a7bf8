"""A base whose noise schedule ends in noise alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nsync_pipeline.diffusion.snr import zero_terminal_signal
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family, NoiseSchedule

ORIGIN_KEY = "zero_terminal_snr"
"""Says, in the header of what was trained, whether it was trained so."""


@dataclass(frozen=True)
class ZeroTerminalSchedule(NoiseSchedule):
    """A rescaled schedule, and what the base had before."""

    own: NoiseSchedule
    own_scheduler: Any  # diffusers


def draw_as_trained(family: Family, origin: Mapping[str, str]) -> None:
    """Use the schedule that what comes from ``origin`` was trained on."""
    if origin.get(ORIGIN_KEY) == "true":
        use_zero_terminal_snr(family)


def use_zero_terminal_snr(family: Family) -> None:
    """Rescale the schedule ``family`` is trained with, and the one it is drawn with, alike.

    What was trained on the rescaled schedule has to be drawn on it, from its very last timestep on:
    every sampler here is built from ``family.scheduler``, which says so from now on.

    Raises:
        TrainingError: the base does not predict v. At the last timestep there is no signal left:
            the noise that epsilon asks for is the input itself, and says nothing of the picture.
    """
    schedule = family.noise_schedule
    if isinstance(schedule, ZeroTerminalSchedule):
        return
    if schedule.prediction_type != "v_prediction":
        raise TrainingError(
            "training.objective.zero_terminal_snr is only for models that predict v, and "
            f"{family.name} predicts {schedule.prediction_type}: set it to false."
        )
    signal = zero_terminal_signal(schedule.signal)
    noise = torch.sqrt(1.0 - signal.square())
    scheduler = family.scheduler
    if "rescale_betas_zero_snr" not in scheduler.config:
        raise TrainingError(
            f"training.objective.zero_terminal_snr: {family.name} names {type(scheduler).__name__} "
            "as its scheduler, which cannot draw so; DDIMScheduler, EulerDiscreteScheduler and "
            "DPMSolverMultistepScheduler can."
        )
    family.noise_schedule = ZeroTerminalSchedule(
        schedule.prediction_type, signal, noise, schedule.timesteps, schedule, scheduler
    )
    family.scheduler = type(scheduler).from_config(
        scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )


def use_own_schedule(family: Family) -> None:
    """Undo ``use_zero_terminal_snr``; nothing happens where it was not done."""
    schedule = family.noise_schedule
    if isinstance(schedule, ZeroTerminalSchedule):
        family.noise_schedule, family.scheduler = schedule.own, schedule.own_scheduler
