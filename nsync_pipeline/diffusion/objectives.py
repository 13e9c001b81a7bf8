"""What the denoiser is asked to predict, and how far it is off."""

from torch import Tensor


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


def per_sample_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean squared error of each sample, (B,), in float32 or better."""
    error = prediction.float() if prediction.dtype.itemsize < 4 else prediction
    return (error - target.to(error)).square().flatten(1).mean(dim=1)
