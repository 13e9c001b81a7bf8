"""Whether a training on the base model fits this machine: a rule of thumb, in plain sums.

Headers and settings on this machine are looked at only: nothing is downloaded, no weight is read.

A training holds

- the frozen weights: the denoiser in its type (or quantized), T5 and language models in that type,
  the CLIP text encoders and the VAE in float32 (with ``base_model.memory.offload`` only the
  denoiser, and one other for a while);
- for each trained weight, in float32: itself, its refined gradient, two moments of AdamW (a quarter
  of that in 8 bits), the running average where there is one, and its gradient and copy a branch;
- what the backward pass keeps of the forward pass (``activations``), for each sample of a
  micro-batch, of all branches at once or of one;
- a GiB for PyTorch, its kernels and what they use meanwhile.

Decoding a picture holds the VAE's largest feature maps instead of what a backward pass keeps; with
offloading, encoding prompts the largest text encoder. The largest of these counts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import psutil

from nsync_pipeline.contrast.config import branches_of
from nsync_pipeline.doctor import Finding, State
from nsync_pipeline.doctor.base_shapes import BaseShapes, Component, Shapes, read_base
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import Quantization
from nsync_pipeline.params import Params
from nsync_pipeline.training.config import TrainingConfig

SUBJECT = "Memory fit"
GIB = 2**30
KEPT_BY_UNET = 1.1
KEPT_BY_TRANSFORMER = 0.7
KEPT_WITH_CHECKPOINTING = 0.2

CLIP_TOKENS = 77
T5_TOKENS = 256
TOLD_TOKENS = 512  # at most, of a language model that reads the prompt

LEVEL = re.compile(r"^(down_blocks|up_blocks|input_blocks|output_blocks)\.(\d+)\.")
ONCE = re.compile(
    r"time_|modulation|_mod\.|add_embedding|label_emb|emb_layers|norm\w*\.linear|adaLN|_embedder\.mlp"
)
"""Layers that run once a picture: on the timestep, on the pooled prompt."""
ON_PROMPT = re.compile(r"attn2\.to_[kv]\.|add_|_context|context_")


def kept_bytes(
    shapes: Shapes,
    latent_side: int,
    targets: Sequence[str],
    number_bytes: int,
    patch: int | None = None,
) -> int:
    """Bytes a backward pass keeps for one sample of a denoiser.

    Args:
        shapes: of the denoiser's weights, in diffusers' names or those of its authors.
        latent_side: of the latents it is given.
        targets: name endings of the adapted layers.
        number_bytes: of one number of its type.
        patch: latents a side that a transformer takes as one; None: as its weights say.
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
        elif ON_PROMPT.search(name):
            positions = CLIP_TOKENS if is_unet else CLIP_TOKENS + T5_TOKENS
        else:
            halved = latent_side >> _level(name, levels)
            positions = (halved if is_unet else latent_side // (patch or _patch(shapes))) ** 2
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
VAE_CHANNELS = 128  # of such a map


BLOCKS_THERE = 0.1
"""The share of a denoiser that is on the device where its blocks wait elsewhere."""


@dataclass(frozen=True)
class Way:
    """How a training may go about its memory."""

    in_one_pass: bool  # all branches
    checkpointing: bool
    offload: bool
    micro_batch: int
    quantized: bool = False  # in 8 bits
    waiting_blocks: bool = False  # of the denoiser


STEPS: Mapping[str, tuple[bool | int, str, str | bool | int]] = {
    "in_one_pass": (False, "training.branches", "in_turn"),
    "checkpointing": (True, "training.gradient_checkpointing", True),
    "offload": (True, "base_model.memory.offload", True),
    "micro_batch": (1, "training.batch_size", 1),
    "quantized": (True, "base_model.quantization", "int8"),
    "waiting_blocks": (True, "base_model.memory.group_offload", True),
}
"""From more memory to less: what a way is then, and the key of params.yaml and its value."""


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
    in_8_bits: int | None = None  # of the denoiser; None: it is quantized already

    @property
    def weights(self) -> int:
        return self.denoiser + sum(self.text_encoders) + self.vae

    def peak(self, way: Way) -> int:
        """The most bytes at a time."""
        denoiser = self.denoiser
        if way.quantized and self.in_8_bits is not None:
            denoiser = self.in_8_bits
        if way.waiting_blocks:
            denoiser = round(denoiser * BLOCKS_THERE)
        resident = RESERVE + denoiser + self.trained_weights * self.bytes_a_trained_weight
        share = KEPT_WITH_CHECKPOINTING if way.checkpointing else 1.0
        samples = way.micro_batch * (self.branches if way.in_one_pass else 1)
        training = round(samples * (share * self.kept_a_sample + self.kept_a_prompt))
        if way.offload:  # one at a time is there, and none while the denoiser trains
            encoding = max(self.text_encoders, default=0)
            return resident + max(training, encoding, self.vae + self.decoding)
        others = sum(self.text_encoders) + self.vae
        return resident + others + max(training, self.decoding)


QUANTIZED_BYTES = {"int8": 1.02, "fp8": 1.02, "nf4": 0.56}
"""A number of a quantized matrix, its scales counted."""


def estimate(
    base: BaseShapes,
    training: TrainingConfig,
    number_bytes: int,
    quantization: Quantization | None = None,
) -> MemoryEstimate:
    """Of a training with a variant's settings; ``number_bytes`` of one number of the denoiser."""
    targets: Sequence[str] | None = training.lora.targets if training.lora is not None else None
    if targets is None or isinstance(targets, str):  # a regular expression: the family's, roughly
        targets = base.loader.lora_targets
    branches = len(branches_of(training.update_rule, training.contrast).ordered)
    latent_side = base.resolution // base.pixels_per_latent
    components = base.components
    (denoiser,) = [component for component in components if component.name == "denoiser"]
    encoders = [component for component in components if component.name.startswith("text_encoder")]
    clips = [encoder for encoder in encoders if encoder.name in base.loader.clip_encoders]
    lora = training.lora
    trained = _trained(training, denoiser, clips, targets)
    reaches_prompts = training.textual_inversion is not None or (
        lora is not None and lora.text_encoder
    )
    copies = 2 * branches if branches > 1 else 1
    moments = 2 if training.optimizer == "adamw" else 1
    average = 0 if training.ema_decay is None else 1
    return MemoryEstimate(
        denoiser=_denoiser_bytes(denoiser, number_bytes, quantization),
        text_encoders=tuple(
            c.parameters * (FULL if c in clips else number_bytes) for c in encoders
        ),
        vae=sum(c.parameters for c in components if c.name == "vae") * FULL,
        trained_weights=trained,
        bytes_a_trained_weight=FULL * (2 + moments + average + copies),
        kept_a_sample=kept_bytes(
            denoiser.shapes,
            latent_side,
            targets if lora is not None else (),
            number_bytes,
            base.loader.token_side,
        ),
        kept_a_prompt=sum(kept_by_text_encoder(c.shapes) for c in clips) if reaches_prompts else 0,
        branches=branches,
        decoding=VAE_MAPS * VAE_CHANNELS * base.resolution**2 * FULL,
        in_8_bits=None if quantization else _denoiser_bytes(denoiser, number_bytes, "int8"),
    )


def ways_to_fit(estimated: MemoryEstimate, asked: Way, available: int) -> Way | None:
    """The first way that fits into ``available`` bytes, from as it is asked to the most frugal.

    Each of ``STEPS`` keeps what the ones before it changed.
    """
    ways = [asked]
    for name, (frugal, _, _) in STEPS.items():
        ways.append(replace(ways[-1], **{name: frugal}))  # type: ignore[arg-type] # as Way has it
    return next((way for way in ways if estimated.peak(way) <= available), None)


def _denoiser_bytes(
    denoiser: Component, number_bytes: int, quantization: Quantization | None
) -> int:
    matrices = sum(prod(s) for n, s in denoiser.shapes.items() if len(s) == 2 and "weight" in n)
    a_number = number_bytes if quantization is None else QUANTIZED_BYTES[quantization]
    return round(matrices * a_number + (denoiser.parameters - matrices) * number_bytes)


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
        endings = lora.text_encoder_targets
        # A regular expression is not followed, and adapts nothing here.
        if lora.text_encoder and not isinstance(endings, str):
            count += sum(lora_weights(c.shapes, endings, lora.rank) for c in clips)
    if training.textual_inversion is not None:
        for clip in clips:  # the width of its token vectors
            widths = (s[1] for name, s in clip.shapes.items() if "token_embedding" in name)
            count += training.textual_inversion.vectors * max(widths, default=0)
    return count


def _needs_most(
    params: Params, base: BaseShapes, number_bytes: int, quantization: Quantization | None = None
) -> tuple[str, MemoryEstimate, Way]:
    """The variant that needs most memory as it is asked for: its name, what it takes, and how."""
    wanted = []
    for name in params.variants:
        training = params.variant(name)
        estimated = estimate(base, training, number_bytes, quantization)
        wanted.append((name, estimated, _asked(params, training, estimated.branches)))
    return max(wanted, key=lambda one: one[1].peak(one[2]))


def _asked(params: Params, training: TrainingConfig, branches: int) -> Way:
    return Way(
        in_one_pass=branches > 1 and training.branches != "in_turn",
        checkpointing=training.gradient_checkpointing,
        offload=params.base_model.memory.offload,
        micro_batch=training.batch_size,
        quantized=params.base_model.quantization is not None,
        waiting_blocks=params.base_model.memory.group_offload,
    )


CARDS = (8, 12, 16, 24, 80)  # GiB
DESKTOP = 1  # GiB of a card that other programs hold


@dataclass(frozen=True)
class CardPreset:
    """What to set so that a training fits a card of this size."""

    card: int  # GiB
    fits: bool
    changes: Mapping[str, str | bool | int]  # of params.yaml, by dotted key; empty: none is needed
    peak: int  # bytes, so; of what does not fit, with all that can be saved


def card_presets(params: Params) -> list[CardPreset] | None:
    """For each of ``CARDS``, of the variant that needs most; None before the base is known here.

    Raises:
        BaseModelError: the base model cannot be read.
    """
    base = read_base(params.base_model)
    if base is None:
        return None
    number_bytes = {"float32": FULL, "float64": 2 * FULL}.get(params.base_model.dtype, FULL // 2)
    name, estimated, asked = _needs_most(params, base, number_bytes)
    presets = []
    for card in CARDS:
        way = ways_to_fit(estimated, asked, (card - DESKTOP) * GIB)
        frugal = way or Way(False, True, True, 1)
        changes = _changes(asked, frugal, params.variant(name).accumulation)
        presets.append(CardPreset(card, way is not None, changes, estimated.peak(frugal)))
    return presets


def _changes(asked: Way, way: Way, accumulation: int) -> dict[str, str | bool | int]:
    """What to set to go ``way`` instead, by dotted key; the samples a step stay as many."""
    changes: dict[str, str | bool | int] = {}
    for name, (frugal, key, value) in STEPS.items():
        if getattr(way, name) == frugal != getattr(asked, name):
            changes[key] = value
            if name == "micro_batch":
                changes["training.accumulation"] = accumulation * asked.micro_batch
    return changes


def memory_finding(params: Params, available: int | None = None) -> Finding:
    """Whether the variant that needs most memory fits; ``available`` bytes instead of what is."""
    from nsync_pipeline.families.placement import place  # torch: seconds, only here

    try:
        placement = place(params.base_model)
        base = read_base(params.base_model)
    except BaseModelError as error:
        return Finding(State.WARN, SUBJECT, f"cannot be told: {error}", "see base_model")
    if base is None:
        name = params.base_model.name
        return Finding(
            State.WARN, SUBJECT, f"cannot be told before {name} is on this machine",
            "run this again once the first stage has downloaded it",
        )  # fmt: skip
    number_bytes = placement.dtype.itemsize
    name, estimated, asked = _needs_most(params, base, number_bytes, placement.quantization)
    if available is None and placement.device.type == "cuda":
        import torch

        available = torch.cuda.mem_get_info()[0]
    elif available is None:
        available = psutil.virtual_memory().available
    training = params.variant(name)
    way = ways_to_fit(estimated, asked, available)
    millions = sum(component.parameters for component in base.components) / 1e6
    weights = f"{millions:,.{0 if millions >= 10 else 1}f} M weights"
    several = f", {estimated.branches} branches" if estimated.branches > 1 else ""
    number_type = placement.quantization or str(placement.dtype).removeprefix("torch.")
    kept = ""
    if base.embeds:
        a_prompt = base.embeds * TOLD_TOKENS * number_bytes
        tags = training.tags
        each = f", {tags.wordings} wordings a caption" if tags.changes_captions else ""
        kept = f"a prompt is kept in up to {_gib(a_prompt)} on disk{each}; "
    told = (
        f"{weights} take {_gib(estimated.weights)} (denoiser in {number_type}); {kept}training "
        f"{name} at {base.resolution} px, batch size {asked.micro_batch}{several}: about "
        f"{_gib(estimated.peak(asked))} of {_gib(available)} free on {placement.device.type}: "
    )
    if way == asked:
        together = " in one pass" if asked.in_one_pass else ""
        return Finding(State.OK, SUBJECT, f"{told}fits{together}")
    if way is None:
        return Finding(
            State.WARN, SUBJECT, f"{told}does not fit, however frugal",
            "a smaller base or base_model.resolution, or another machine",
        )  # fmt: skip
    needs = f"(about {_gib(estimated.peak(way))})"
    if way == replace(asked, in_one_pass=False):
        advice = "set training.branches to in_turn"
        if training.branches == "auto":
            advice = "training.branches: auto goes over to it by itself; in_turn begins with it"
        return Finding(State.WARN, SUBJECT, f"{told}fits one branch at a time {needs}", advice)
    changes = _changes(asked, way, training.accumulation)
    if changes.pop("training.accumulation", None) is not None:
        changes["training.batch_size"] = "1 (and training.accumulation for the rest)"
    said = {key: "true" if value is True else value for key, value in changes.items()}
    advice = ", ".join(f"{key}: {value}" for key, value in said.items())
    return Finding(State.WARN, SUBJECT, f"{told}does not fit so", f"{advice} {needs}")


def _gib(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB // 2 else f"{count / 2**20:,.0f} MiB"
