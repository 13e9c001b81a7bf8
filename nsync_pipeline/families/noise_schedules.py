"""A model's own scheduler, and the forward process it was trained with as a table."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import Tensor

from nsync_pipeline.diffusion.objectives import zero_terminal_signal
from nsync_pipeline.errors import BaseModelError, TrainingError
from nsync_pipeline.families.family import Family, NoiseSchedule
from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.pipeline_folder import PipelineFolder

PREDICTION_TYPES = ("epsilon", "v_prediction")
ORIGIN_KEY = "zero_terminal_snr"  # in the header of what was trained: whether it was trained so


def load_scheduler(folder: PipelineFolder) -> Any:
    """The diffusers scheduler that the model names, with its settings; or BaseModelError."""
    name = folder.index["scheduler"][1]
    kind: Any = getattr(diffusers, str(name), None)
    if kind is None or not issubclass(kind, SchedulerMixin):
        raise BaseModelError(
            f"base_model.name: {folder.name}: its scheduler is {name}, and diffusers "
            f"{diffusers.__version__} has no such one: `pip install -U diffusers`, or take a model "
            "with another"
        )
    with loading_errors(folder.path / "scheduler"):
        scheduler = kind.from_pretrained(folder.path, subfolder="scheduler")
        if scheduler.config.get("clip_sample"):
            # Made for pixels in [-1, 1]; latents go beyond, and the pipeline clears it too.
            scheduler = kind.from_config(scheduler.config, clip_sample=False)
    said = {} if folder.checkpoint_kind is None else dict(folder.checkpoint_kind.scheduler)
    if unknown := [setting for setting in said if not _takes(scheduler, setting)]:
        raise BaseModelError(
            f"{folder.name} says of itself {said}, and {name}, the scheduler of its settings, "
            f"knows no {unknown[0]}: give settings with DDIMScheduler or EulerDiscreteScheduler "
            "in base_model.config."
        )
    return kind.from_config(scheduler.config, **said) if said else scheduler


def _takes(scheduler: Any, setting: str) -> bool:
    """Whether the setting is of its class; its ``config`` keeps those of other classes, too."""
    return setting in inspect.signature(type(scheduler).__init__).parameters


def diffusion_schedule(name: str, scheduler: Any) -> NoiseSchedule:
    """Of a model trained on ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e``, a_t from its betas.

    Raises:
        BaseModelError: the model predicts something else than the noise or ``v``, or its scheduler
            does not go by betas.
    """
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    flows = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    if flows or scheduler.config.get("use_flow_sigmas"):
        prediction_type = "flow"
    if prediction_type not in PREDICTION_TYPES:
        raise BaseModelError(
            f"{name} predicts {prediction_type!r}; taken are {' and '.join(PREDICTION_TYPES)}."
        )
    try:
        alphas = DDPMScheduler.from_config(scheduler.config).alphas_cumprod.double()
        own = torch.as_tensor(scheduler.alphas_cumprod).double()
    except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError):
        own = torch.empty(0)
    # Where they are not the same, what is drawn would not be what is trained.
    if not len(own) or own.shape != alphas.shape or not torch.allclose(own, alphas, atol=1e-6):
        raise BaseModelError(
            f"{name}: its scheduler is {type(scheduler).__name__}, which does not say by betas how "
            "noisy each step is; taken are those that do, as DDIMScheduler, EulerDiscreteScheduler "
            "and DPMSolverMultistepScheduler."
        )
    # In float64: near t = 0, 1 - a_t loses most of its float32 digits.
    return NoiseSchedule(
        prediction_type, alphas.sqrt(), (1.0 - alphas).sqrt(), torch.arange(len(alphas))
    )


def flow_schedule(name: str, scheduler: Any) -> NoiseSchedule:
    """Of a model trained on straight paths, ``x_t = (1 - s_t) x_0 + s_t e``.

    ``s_t = shift u / (1 + (shift - 1) u)`` with ``u = t / T``, t = 1 .. T; the denoiser is told
    ``T s_t``. Source: Esser et al., arXiv 2403.03206, eq. 23.

    Raises:
        BaseModelError: its scheduler is of another kind, or shifts by the picture's size.
    """
    settings = _flow_settings(name, scheduler)
    if settings.use_dynamic_shifting or settings.shift_terminal:
        raise BaseModelError(
            f"{name}: its noise schedule depends on the picture's size, or is stretched, which "
            "is not taken of such a model."
        )
    return NoiseSchedule("flow", *_shifted(int(settings.num_train_timesteps), settings.shift))


def _flow_settings(name: str, scheduler: Any) -> Any:
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise BaseModelError(
            f"{name}: its scheduler is {type(scheduler).__name__}; taken is "
            "FlowMatchEulerDiscreteScheduler."
        )
    if scheduler.config.invert_sigmas:
        raise BaseModelError(f"{name}: its noise schedule is inverted, which is not taken.")
    return scheduler.config


def _shifted(count: int, shift: float) -> tuple[Tensor, Tensor, Tensor]:
    """Signal, noise and timesteps of the ``count`` entries of a path that is shifted so."""
    even = torch.arange(1, count + 1, dtype=torch.float64) / count
    noise = shift * even / (1.0 + (shift - 1.0) * even)
    return 1.0 - noise, noise, (count * noise).float()


Shift = Callable[[int, int | None], float]
"""``mu`` of a picture of so many tokens, drawn in so many steps (None: in training)."""


@dataclass(frozen=True)
class SizedSchedule(NoiseSchedule):
    """That of a model whose path is shifted the more towards noise, the larger the picture is.

    ``s(u) = a u / (1 + (a - 1) u)``, where ``a`` is ``exp(mu)`` of the picture's tokens, or ``mu``
    where the model's scheduler shifts linearly, or the same for all sizes where it says so. The
    entries of this object are those of one size. Drawing takes ``u`` from 1 in even steps to one
    over their number, as these models' pipelines do.
    """

    shift_of: Shift  # the ``a`` above

    def of_size(self, height: int, width: int) -> "SizedSchedule":
        shift = self.shift_of(height * width, None)
        return SizedSchedule("flow", *_shifted(len(self), shift), self.shift_of)


def sized_schedule(
    name: str, scheduler: Any, mu: Callable[[Any, int, int | None], float], patch: int
) -> SizedSchedule:
    """Of a model whose scheduler may shift by the picture's size; raises as ``flow_schedule``.

    Args:
        name: of the model.
        scheduler: its own.
        mu: of its scheduler's settings, the picture's tokens and the steps to draw it in.
        patch: latents a side that are a token.
    """
    settings = _flow_settings(name, scheduler)
    shift = partial(_shift, settings, mu, patch**2)
    return SizedSchedule("flow", *_shifted(int(settings.num_train_timesteps), 1.0), shift)


def _shift(
    settings: Any,
    mu: Callable[[Any, int, int | None], float],
    latents_a_token: int,
    latents: int,
    steps: int | None,
) -> float:
    if not settings.use_dynamic_shifting:
        return float(settings.shift)
    found = mu(settings, latents // latents_a_token, steps)
    return found if settings.time_shift_type == "linear" else math.exp(found)


def linear_mu(settings: Any, tokens: int, steps: int | None) -> float:
    """``mu`` on the line through the scheduler's two points, whatever the steps."""
    least, most = settings.base_image_seq_len, settings.max_image_seq_len
    slope = (settings.max_shift - settings.base_shift) / (most - least)
    return float(settings.base_shift + slope * (tokens - least))


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

    Every sampler here is built from ``family.scheduler``, which says so from now on.

    Raises:
        TrainingError: the base does not predict v: at the last timestep there is no signal left,
            and the noise that epsilon asks for is the input itself.
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
    if not _takes(scheduler, "rescale_betas_zero_snr"):
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
