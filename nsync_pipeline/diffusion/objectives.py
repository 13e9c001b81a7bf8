"""What the denoiser is asked to predict, and how far it is off."""

from torch import Tensor

from nsync_pipeline.diffusion.noising import signal_and_noise_scales


def prediction_target(
    prediction_type: str,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
) -> Tensor:
    """The target (B, C, h, w) of each sample.

    - ``epsilon``: the noise ``e`` (Ho et al., arXiv 2006.11239);
    - ``v_prediction``: ``sqrt(a_t) e - sqrt(1 - a_t) x_0`` (Salimans and Ho, arXiv 2202.00512).

    Raises:
        ValueError: another prediction type.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        signal, sigma = signal_and_noise_scales(timesteps, alphas_cumprod, like=latents)
        return signal * noise - sigma * latents
    raise ValueError(f"prediction type {prediction_type!r} is neither epsilon nor v_prediction")


def per_sample_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean squared error of each sample, (B,), in float32 or better."""
    error = prediction.float() if prediction.dtype.itemsize < 4 else prediction
    return (error - target.to(error)).square().flatten(1).mean(dim=1)
