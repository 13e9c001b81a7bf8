"""The signal-to-noise ratio of timesteps: weighting the loss by it, and taking its end to zero."""

import torch
from torch import Tensor

from nsync_pipeline.errors import TrainingError


def min_snr_weights(prediction_type: str, signal: Tensor, noise: Tensor, gamma: float) -> Tensor:
    """The weight of each of the schedule's entries, (T,) float64; ``signal``, ``noise`` are (T,).

    With ``SNR = signal^2 / noise^2``: ``min(SNR, gamma) / SNR`` for epsilon, and
    ``min(SNR, gamma) / (SNR + 1)`` for v_prediction; both weigh the loss *of the picture* by
    ``min(SNR, gamma)``. Source: Hang et al., Efficient Diffusion Training via Min-SNR Weighting
    Strategy (arXiv 2303.09556), section 3.4.

    Raises:
        TrainingError: the model predicts something else.
    """
    if prediction_type not in ("epsilon", "v_prediction"):
        raise TrainingError(
            "training.objective.min_snr_gamma is for models that predict epsilon or v, and this "
            f"one predicts {prediction_type}: set it to null; timestep_sampling shifts the weight "
            "of timesteps there."
        )
    ratio = (signal.double() / noise.double()).square()
    # Written with gamma / ratio, because a ratio may be infinite, or zero.
    if prediction_type == "epsilon":
        return (gamma / ratio).clamp(max=1.0)
    return torch.minimum(ratio / (ratio + 1.0), gamma / (ratio + 1.0)).nan_to_num(nan=0.0)


def zero_terminal_signal(signal: Tensor) -> Tensor:
    """``signal`` (T,) float64, moved and stretched so that it ends at 0 and starts as before.

    ``s'[t] = (s[t] - s[T]) s[0] / (s[0] - s[T])``; the noise is then ``sqrt(1 - s'^2)``. Source:
    Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed (arXiv 2305.08891),
    algorithm 1.
    """
    first, last = signal[0], signal[-1]
    return (signal - last) * first / (first - last)
