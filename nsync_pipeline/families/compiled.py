"""``torch.compile`` for a denoiser, in place: names and modules stay what they are."""

import torch
from torch import nn

BACKEND = "inductor"


def compile_in_place(denoiser: nn.Module) -> None:
    """Have ``denoiser`` compiled when it is first called.

    What cannot be compiled runs as it is, with a warning of torch's: no compiler on the machine,
    say. While per-branch copies stand in for LoRA weights, which is anew in every step, the
    denoiser runs uncompiled too (``BranchCopies``).
    """
    torch._dynamo.config.suppress_errors = True
    denoiser.compile(backend=BACKEND)
