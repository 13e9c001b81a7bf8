"""A tiny UNet with a LoRA, and how far two computations of its gradients are apart."""

import math
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from nsync_pipeline.contrast.branch_gradients import BranchGradients
from nsync_pipeline.contrast.config import ANCHOR, NEGATIVE, POSITIVE, Branch

BRANCHES: tuple[Branch, ...] = (POSITIVE, NEGATIVE, ANCHOR)

LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "time_emb_proj"]
CONVOLUTIONS = ["conv_in", "conv1", "conv2", "proj_in", "downsamplers.0.conv"]


def adapted_unet(
    dtype: torch.dtype, **lora: Any
) -> tuple[UNet2DConditionModel, list[nn.Parameter]]:
    """A tiny UNet with LoRA on linear and convolutional layers, both factors away from zero."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type=None,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    settings = {"r": 2, "lora_alpha": 3, "target_modules": LINEAR + CONVOLUTIONS} | lora
    inject_adapter_in_model(LoraConfig(**settings), unet)
    unet.to(dtype)
    weights = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for weight in weights:
            weight.normal_(std=0.3)
    return unet, weights


def largest_relative_error(found: BranchGradients, expected: BranchGradients) -> float:
    """Over all branches and weights, the largest error relative to that weight's gradient."""
    errors = [
        float((a - b).norm() / b.norm())
        for branch in BRANCHES
        for a, b in zip(found.gradients[branch], expected.gradients[branch], strict=True)
    ]
    assert not any(math.isnan(error) for error in errors)
    return max(errors)
