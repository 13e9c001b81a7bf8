"""What the denoiser is asked to predict, and how far it is off."""

import torch
from torch import Tensor

from nsync_pipeline.diffusion.config import ObjectiveConfig
from nsync_pipeline.errors import TrainingError


def prediction_target(
    prediction_type: str, latents: Tensor, noise: Tensor, signal_scale: Tensor, noise_scale: Tensor
) -> Tensor:
    """The target (B, C, h, w) of each sample, where ``x_t = signal_scale x_0 + noise_scale e``.

    - ``epsilon``: the noise ``e`` (Ho et al., arXiv 2006.11239);
    - ``v_prediction``: ``signal_scale e - noise_scale x_0`` (Salimans and Ho, arXiv 2202.00512);
    - ``flow``: ``e - x_0``, the velocity of rectified flow (Liu et al., arXiv 2209.03003).

    Raises:
        ValueError: another prediction type.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return signal_scale * noise - noise_scale * latents
    if prediction_type == "flow":
        return noise - latents
    raise ValueError(
        f"prediction type {prediction_type!r} is none of epsilon, v_prediction and flow"
    )


def per_sample_loss(
    prediction: Tensor, target: Tensor, objective: ObjectiveConfig | None = None
) -> Tensor:
    """The mean error of each sample, (B,), in float32 or better.

    With ``r`` the difference of prediction and target, and ``d`` the objective's ``huber_delta``:

    - ``mse``, and where ``objective`` is None: ``r^2``;
    - ``huber``: ``2 d (sqrt(r^2 + d^2) - d)``, which is ``r^2`` where ``r`` is small and
      ``2 d |r|`` where it is large (the pseudo-Huber loss of arXiv 2403.16728, scaled as the
      training scripts of diffusers scale it, so that it passes into the squared error).
    """
    error = prediction.float() if prediction.dtype.itemsize < 4 else prediction
    residual = error - target.to(error)
    if objective is None or objective.loss == "mse":
        return residual.square().flatten(1).mean(dim=1)
    delta = objective.huber_delta
    root = torch.sqrt(residual.square() + delta**2)
    # residual^2 / (root + delta) is root - delta, and keeps its digits where the residual is small.
    return (2 * delta * residual.square() / (root + delta)).flatten(1).mean(dim=1)


def noisy_latents(
    latents: Tensor, noise: Tensor, signal_scale: Tensor, noise_scale: Tensor
) -> Tensor:
    """``x_t = signal_scale x_0 + noise_scale e``; all (B, C, h, w), the scales (B, 1, 1, 1).

    Source: Ho et al., Denoising Diffusion Probabilistic Models (arXiv 2006.11239), eq. 4.
    """
    return signal_scale * latents + noise_scale * noise


def scales_at(entries: Tensor, scale: Tensor, like: Tensor) -> Tensor:
    """``scale`` (T,) at the schedule's ``entries`` (B,) int64: (B, 1, 1, 1), of ``like``'s type."""
    # On the CPU: MPS has no float64.
    return scale.to("cpu", torch.float64)[entries.cpu()].view(-1, 1, 1, 1).to(like)


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
