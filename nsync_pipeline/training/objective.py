"""The objective of a training, made to fit its base: at the start, or not at all."""

from torch import Tensor

from nsync_pipeline.diffusion.config import ObjectiveConfig
from nsync_pipeline.diffusion.snr import min_snr_weights
from nsync_pipeline.families.family import Family, NoiseSchedule
from nsync_pipeline.families.zero_terminal_snr import use_zero_terminal_snr


def apply_objective(family: Family, objective: ObjectiveConfig) -> None:
    """Give ``family`` the noise schedule that ``objective`` asks for.

    Raises:
        TrainingError: the objective is not defined for what the base predicts.
    """
    if objective.zero_terminal_snr:
        use_zero_terminal_snr(family)
    loss_weights(family.noise_schedule, objective)


def loss_weights(schedule: NoiseSchedule, objective: ObjectiveConfig) -> Tensor | None:
    """The weight of each of the schedule's entries, (T,) float64; None where all weigh alike.

    Raises:
        TrainingError: the objective is not defined for what the base predicts.
    """
    if objective.min_snr_gamma is None:
        return None
    return min_snr_weights(
        schedule.prediction_type, schedule.signal, schedule.noise, objective.min_snr_gamma
    )
