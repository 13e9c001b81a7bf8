"""How much memory a training takes on a base model: a rule of thumb, in plain sums.

A training holds

- the frozen weights: the denoiser in its type, T5 as well, the CLIP text encoders and the VAE in
  float32 (with ``base_model.memory.offload`` only the denoiser, and one other for a while);
- for each trained weight, in float32: itself, its refined gradient, two moments of AdamW (a quarter
  of that in 8 bits), the running average where there is one, and its gradient and copy a branch;
- what the backward pass keeps of the forward pass (``activations``), for each sample of a
  micro-batch, of all branches at once or of one;
- a GiB for PyTorch, its kernels and what they use meanwhile.

Decoding a picture holds the VAE's largest feature maps instead of what a backward pass keeps; with
offloading, encoding prompts the largest text encoder. The largest of these counts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.doctor.base_shapes import Component, Shapes
from nsync_pipeline.training.config import TrainingConfig

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


RESERVE = 2**30
FULL = 4  # bytes of a float32
VAE_MAPS = 10
"""Feature maps of the picture's size that decoding one picture holds at once: 8 to 11 were seen
with Stable Diffusion's VAE on a CPU."""
VAE_CHANNELS = 128
"""Of such a map."""


@dataclass(frozen=True)
class Way:
    """How a training may go about its memory."""

    in_one_pass: bool  # all branches
    checkpointing: bool
    offload: bool
    micro_batch: int


@dataclass(frozen=True)
class MemoryEstimate:
    """What a training on a base model takes, in bytes."""

    denoiser: int
    text_encoders: tuple[int, ...]
    vae: int
    trained_weights: int  # how many
    bytes_a_trained_weight: int
    kept_a_sample: int  # of the denoiser
    kept_a_prompt: int  # of text encoders that are trained; 0 where none is
    branches: int
    decoding: int

    @property
    def weights(self) -> int:
        return self.denoiser + sum(self.text_encoders) + self.vae

    def peak(self, way: Way) -> int:
        """The most bytes at a time."""
        resident = RESERVE + self.denoiser + self.trained_weights * self.bytes_a_trained_weight
        share = KEPT_WITH_CHECKPOINTING if way.checkpointing else 1.0
        samples = way.micro_batch * (self.branches if way.in_one_pass else 1)
        training = round(samples * (share * self.kept_a_sample + self.kept_a_prompt))
        if way.offload:  # one at a time is there, and none while the denoiser trains
            encoding = max(self.text_encoders, default=0)
            return resident + max(training, encoding, self.vae + self.decoding)
        others = sum(self.text_encoders) + self.vae
        return resident + others + max(training, self.decoding)


def estimate(
    components: Sequence[Component],
    training: TrainingConfig,
    branches: int,
    targets: Sequence[str],
    latent_side: int,
    resolution: int,
    number_bytes: int,
) -> MemoryEstimate:
    """Of a training with these settings on these networks.

    Args:
        components: the base model's.
        training: a variant's settings.
        branches: how many its rule has.
        targets: name endings of the layers that LoRA adapts.
        latent_side: of the latents of a picture.
        resolution: pixels a side.
        number_bytes: of one number of the denoiser.
    """
    (denoiser,) = [component for component in components if component.name == "denoiser"]
    encoders = [component for component in components if component.name.startswith("text_encoder")]
    clips = [encoder for encoder in encoders if encoder.name != "text_encoder_3"]
    lora = training.lora
    trained = _trained(training, denoiser, clips, targets)
    reaches_prompts = training.textual_inversion is not None or (
        lora is not None and lora.text_encoder
    )
    copies = 2 * branches if branches > 1 else 1
    moments = 2 if training.optimizer == "adamw" else 1
    average = 0 if training.ema_decay is None else 1
    return MemoryEstimate(
        denoiser=denoiser.parameters * number_bytes,
        text_encoders=tuple(
            c.parameters * (number_bytes if c.name == "text_encoder_3" else FULL) for c in encoders
        ),
        vae=sum(c.parameters for c in components if c.name == "vae") * FULL,
        trained_weights=trained,
        bytes_a_trained_weight=FULL * (2 + moments + average + copies),
        kept_a_sample=kept_bytes(
            denoiser.shapes, latent_side, targets if lora is not None else (), number_bytes
        ),
        kept_a_prompt=sum(kept_by_text_encoder(c.shapes) for c in clips) if reaches_prompts else 0,
        branches=branches,
        decoding=VAE_MAPS * VAE_CHANNELS * resolution**2 * FULL,
    )


def ways_to_fit(estimated: MemoryEstimate, asked: Way, available: int) -> Way | None:
    """The first way that fits into ``available`` bytes, from as it is asked to the most frugal.

    Each step keeps what the ones before it changed: the branches one at a time, gradient
    checkpointing, offloading, a micro-batch of one.
    """
    way = asked
    steps: tuple[dict[str, bool | int], ...] = (
        {}, {"in_one_pass": False}, {"checkpointing": True}, {"offload": True}, {"micro_batch": 1},
    )  # fmt: skip
    for changes in steps:
        way = replace(way, **changes)  # type: ignore[arg-type] # names and types are Way's
        if estimated.peak(way) <= available:
            return way
    return None


def _trained(
    training: TrainingConfig,
    denoiser: Component,
    clips: Sequence[Component],
    targets: Sequence[str],
) -> int:
    lora = training.lora
    count = 0
    if lora is not None:
        count += lora_weights(denoiser.shapes, targets, lora.rank)
        if lora.text_encoder:
            count += sum(lora_weights(c.shapes, _endings(lora), lora.rank) for c in clips)
    if training.textual_inversion is not None:
        widths = [_width(component) for component in clips]
        count += training.textual_inversion.vectors * sum(widths)
    return count


def _endings(lora: LoraSettings) -> tuple[str, ...]:
    """The text encoders' targets; a regular expression is not followed, and adapts nothing here."""
    targets = lora.text_encoder_targets
    return () if isinstance(targets, str) else tuple(targets)


def _width(component: Component) -> int:
    """Of the token vectors of a text encoder."""
    return max((s[1] for n, s in component.shapes.items() if "token_embedding" in n), default=0)
