"""The forward process: from clean latents to noisy ones."""

import torch
from torch import Tensor


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
