"""What a backward pass keeps of the forward pass, from the shapes of the weights alone.

The rule of thumb: a layer with ``in`` and ``out`` channels that runs at ``n`` positions (latents,
or tokens) keeps

    k (in + out) n  numbers of the denoiser's type, and
    in n            numbers of 4 bytes more where it is adapted and the denoiser's type is shorter,

because the layers of LoRA compute in float32. ``k`` is 1.1 in a UNet, 0.7 in a transformer. Counted
against what PyTorch saves (``saved_tensors_hooks``, on the meta device, attention as its
memory-saving kernels keep it, rank 8 on the default targets), MiB a sample, rule / counted:

    Stable Diffusion 1.5 at 512 pixels   bfloat16 1429 / 1215   float32 1875 / 1834
    XL at 1024                           bfloat16 11246 / 9436  float32 13523 / 13465
    3 medium at 1024                     bfloat16 6425 / 5623   float32 7872 / 7489

With gradient checkpointing those three keep 5 to 12 % of that, and what one block keeps comes on
top: a fifth together.
"""

import re
from collections.abc import Sequence
from math import prod

from nsync_pipeline.cli.weight_headers import Shapes

KEPT_BY_UNET = 1.1
KEPT_BY_TRANSFORMER = 0.7
KEPT_WITH_CHECKPOINTING = 0.2

CLIP_TOKENS = 77
T5_TOKENS = 256

LEVEL = re.compile(r"^(down_blocks|up_blocks|input_blocks|output_blocks)\.(\d+)\.")
ONCE = re.compile(r"time_|add_embedding|label_emb|emb_layers|norm\w*\.linear|adaLN|_embedder\.mlp")
"""Layers that run once a picture: on the timestep, on the pooled prompt."""
ON_PROMPT = re.compile(r"attn2\.to_[kv]\.|add_|_context|context_")


def kept_bytes(shapes: Shapes, latent_side: int, targets: Sequence[str], number_bytes: int) -> int:
    """Bytes a backward pass keeps for one sample of a denoiser.

    Args:
        shapes: of the denoiser's weights, in diffusers' names or those of its authors.
        latent_side: of the latents it is given.
        targets: name endings of the adapted layers.
        number_bytes: of one number of its type.
    """
    is_unet = any(LEVEL.match(name) for name in shapes)
    factor = KEPT_BY_UNET if is_unet else KEPT_BY_TRANSFORMER
    levels = _levels(shapes)
    kept = 0.0
    for name, shape in shapes.items():
        if len(shape) < 2 or not name.endswith(".weight"):
            continue
        inputs, outputs = shape[1], shape[0]
        if ONCE.search(name):
            positions = 1
        elif is_unet:
            on_prompt = ON_PROMPT.search(name) is not None
            positions = CLIP_TOKENS if on_prompt else (latent_side >> _level(name, levels)) ** 2
        else:
            on_prompt = ON_PROMPT.search(name) is not None
            patches = (latent_side // _patch(shapes)) ** 2
            positions = CLIP_TOKENS + T5_TOKENS if on_prompt else patches
        kept += factor * (inputs + outputs) * positions * number_bytes
        if number_bytes < 4 and _is_target(name, targets):
            kept += 4 * inputs * positions
    return round(kept)


def kept_by_text_encoder(shapes: Shapes) -> int:
    """Bytes a backward pass keeps for one prompt of a text encoder, which is in float32."""
    sizes = [shape for name, shape in shapes.items() if len(shape) == 2 and "embed" not in name]
    return round(KEPT_BY_UNET * sum(map(sum, sizes)) * CLIP_TOKENS * 4)


def lora_weights(shapes: Shapes, targets: Sequence[str], rank: int) -> int:
    """How many weights a LoRA on ``targets`` has: ``rank * (in * kernel + out)`` a layer."""
    adapted = [shape for name, shape in shapes.items() if _is_target(name, targets)]
    return sum(rank * (prod(shape[1:]) + shape[0]) for shape in adapted if len(shape) >= 2)


def _is_target(name: str, targets: Sequence[str]) -> bool:
    layer = name.removesuffix(".weight")
    return layer != name and any(layer == t or layer.endswith(f".{t}") for t in targets)


def _patch(shapes: Shapes) -> int:
    """Latents a side that a transformer takes as one token."""
    kernels = [s[-1] for name, s in shapes.items() if "embed" in name and len(s) == 4]
    return kernels[0] if kernels else 2


def _levels(shapes: Shapes) -> int:
    found = [m for name in shapes if (m := LEVEL.match(name))]
    depths = [_down_level(m) for m in found if m[1] in ("down_blocks", "input_blocks")]
    return 1 + max(depths, default=0)


def _down_level(match: re.Match[str]) -> int:
    number = int(match[2])
    # The authors' blocks are numbered through: the first convolution, then three a level.
    return number if match[1] == "down_blocks" else max(number - 1, 0) // 3


def _level(name: str, levels: int) -> int:
    """How often the latents have been halved where this layer runs."""
    match = LEVEL.match(name)
    if match is None:
        return levels - 1 if name.startswith(("mid_block", "middle_block")) else 0
    if match[1] in ("down_blocks", "input_blocks"):
        return _down_level(match)
    up = int(match[2]) if match[1] == "up_blocks" else int(match[2]) // 3
    return max(levels - 1 - up - ("upsamplers" in name), 0)
