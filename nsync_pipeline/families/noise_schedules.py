"""A model's own scheduler, and the forward process it was trained with as a table."""

from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import NoiseSchedule
from nsync_pipeline.families.pipeline_folder import PipelineFolder
from nsync_pipeline.families.weights import loading_errors

PREDICTION_TYPES = ("epsilon", "v_prediction")


def load_scheduler(folder: PipelineFolder) -> Any:
    """The diffusers scheduler that the model names, with the model's settings.

    Raises:
        BaseModelError: it cannot be loaded, or diffusers has none of this name.
    """
    name = folder.index["scheduler"][1]
    kind: Any = getattr(diffusers, str(name), None)
    if kind is None or not issubclass(kind, SchedulerMixin):
        raise BaseModelError(f"{folder.name}: diffusers {diffusers.__version__} has no {name}.")
    with loading_errors(folder.path / "scheduler"):
        scheduler = kind.from_pretrained(folder.path, subfolder="scheduler")
        if scheduler.config.get("clip_sample"):
            # Made for pixels in [-1, 1]; latents go beyond, and the pipeline clears it too.
            scheduler = kind.from_config(scheduler.config, clip_sample=False)
    return scheduler


def diffusion_schedule(name: str, scheduler: Any) -> NoiseSchedule:
    """Of a model trained on ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e``, a_t from its betas.

    Raises:
        BaseModelError: the model predicts something else than the noise or ``v``.
    """
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        prediction_type = "flow"
    if prediction_type not in PREDICTION_TYPES:
        raise BaseModelError(
            f"{name} predicts {prediction_type!r}; taken are {' and '.join(PREDICTION_TYPES)}."
        )
    training = DDPMScheduler.from_config(scheduler.config)
    alphas = training.alphas_cumprod.double()
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
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise BaseModelError(
            f"{name}: its scheduler is {type(scheduler).__name__}; taken is "
            "FlowMatchEulerDiscreteScheduler."
        )
    settings = scheduler.config
    if settings.use_dynamic_shifting or settings.invert_sigmas or settings.shift_terminal:
        raise BaseModelError(
            f"{name}: its noise schedule depends on the picture's size, or is stretched or "
            "inverted, which is not taken."
        )
    count = int(settings.num_train_timesteps)
    even = torch.arange(1, count + 1, dtype=torch.float64) / count
    noise = settings.shift * even / (1.0 + (settings.shift - 1.0) * even)
    return NoiseSchedule("flow", 1.0 - noise, noise, (count * noise).float())
