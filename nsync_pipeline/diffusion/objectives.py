"""What the denoiser is asked to predict, and how far it is off."""

import torch
from torch import Tensor

from nsync_pipeline.diffusion.config import ObjectiveConfig


def prediction_target(
    prediction_type: str,
    latents: Tensor,
    noise: Tensor,
    signal_scale: Tensor,
    noise_scale: Tensor,
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
