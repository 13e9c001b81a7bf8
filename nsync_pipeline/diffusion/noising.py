"""The forward process: from clean latents to noisy ones."""

import torch
from torch import Tensor


def noisy_latents(
    latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e``, with ``a`` the cumulative product of the alphas.

    ``latents`` and ``noise`` are (B, C, h, w), ``timesteps`` (B,) int64, ``alphas_cumprod`` (T,).
    Source: Ho et al., Denoising Diffusion Probabilistic Models (arXiv 2006.11239), eq. 4.
    """
    signal, sigma = signal_and_noise_scales(timesteps, alphas_cumprod, like=latents)
    return signal * latents + sigma * noise


def signal_and_noise_scales(
    timesteps: Tensor, alphas_cumprod: Tensor, like: Tensor
) -> tuple[Tensor, Tensor]:
    """``sqrt(a_t)`` and ``sqrt(1 - a_t)``, each (B, 1, 1, 1), of ``like``'s type and device."""
    # On the CPU in float64 (MPS has none): near t = 0, 1 - a_t loses most of its float32 digits.
    share = alphas_cumprod.to("cpu", torch.float64)[timesteps.cpu()].view(-1, 1, 1, 1)
    return share.sqrt().to(like), (1.0 - share).sqrt().to(like)
