"""Drawing pictures, each from its own noise.

On a CPU each is computed alone and on one thread, as many side by side as there are threads: so its
bits depend neither on how many others are drawn nor on the machine's cores, and none is drawn that
nobody asked for. An accelerator is given batches.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsync_pipeline.adaptation.in_use import as_base, at_strength, changes_prompts, has_trained
from nsync_pipeline.drawing.config import ORDINARY, GuidanceConfig, SamplerConfig
from nsync_pipeline.drawing.guidance import EncodedPrompts, Guidance
from nsync_pipeline.drawing.schedulers import build_scheduler, denoiser_input, starting_latents
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import Family, PromptEmbeds

Item = TypeVar("Item")
Made = TypeVar("Made")

PROMPTS_AHEAD = 256  # pictures whose prompts are encoded at once: more would fill memory
PIXELS_A_SLICE = 2**18  # decoded at once: one picture of 512 x 512, or many small ones


@dataclass(frozen=True)
class PictureRequest:
    """One picture to draw."""

    id: str
    prompt: str
    seed: int  # of its own noise, 0 .. 2^63 - 1
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the family's square


@dataclass(frozen=True)
class SampledPicture:
    """One picture, drawn."""

    request: PictureRequest
    pixels: NDArray[np.uint8]  # (H, W, 3)


def draw_pictures(
    family: Family,
    requests: Sequence[PictureRequest],
    sampler: SamplerConfig,
    guidance: GuidanceConfig = ORDINARY,
) -> Iterator[list[SampledPicture]]:
    """Draw ``requests``, a batch at a time: in order, those of one size after another.

    ``guidance`` says how what the family holds of trained weights takes part; of a base that holds
    none it says nothing.

    A batch is of one size; sizes come in the order in which they are first asked for.

    A picture depends on its prompt, seed and size, not on its neighbours: on a CPU to the last bit,
    elsewhere but for the last bits, which may be others in a batch of another size.

    Raises:
        BaseModelError: a size is not a multiple of the pixels that a latent covers; or a picture
            is not finite or of one flat colour; the message names it.
    """
    by_size: dict[tuple[int, int], list[PictureRequest]] = {}
    for request in requests:
        by_size.setdefault(latent_size(family, request), []).append(request)
    count = sampler.batch_size
    ahead = count * max(1, PROMPTS_AHEAD // count)  # whole batches
    guided = Guidance(guidance if has_trained(family) else ORDINARY, sampler.guidance_scale)
    if family.told_guidance is not None:
        if guided.config.form == "base_empty":
            raise BaseModelError(
                f"guidance.form base_empty has no effect on {family.name}: it is told the scale of "
                "guidance, and no empty prompt. Set it to ordinary or difference."
            )
        guided = Guidance(guided.config, 1.0)
    for size, same_size in by_size.items():
        for group in _batches(same_size, ahead):
            with at_strength(family, guided.config.lora_strength):
                embeds = _encoded(family, group, sampler, guided)
            for batch in _batches(group, count):
                # The LoRA's layers are told once, not by each of several threads.
                with (
                    at_strength(family, guided.config.lora_strength),
                    guided.in_one_pass(family),
                    _told(family, sampler.guidance_scale),
                ):
                    made = partial(
                        _drawn, family, size=size, embeds=embeds, sampler=sampler, guidance=guided
                    )
                    parts = _side_by_side(family, made, _batches(batch, _at_once(family, sampler)))
                    pictures = [picture for part in parts for picture in part]
                yield pictures


@contextmanager
def _told(family: Family, scale: float) -> Iterator[None]:
    """Have the denoiser told the scale of guidance, where it is told one."""
    before = family.told_guidance
    if before is not None:
        family.told_guidance = scale
    try:
        yield
    finally:
        family.told_guidance = before


def _at_once(family: Family, sampler: SamplerConfig) -> int:
    """How many pictures, or prompts, are computed in one."""
    return 1 if _alone(family) else sampler.batch_size


def _alone(family: Family) -> bool:
    return family.device.type == "cpu"


def _side_by_side(
    family: Family, make: Callable[[Item], Made], items: Iterable[Item]
) -> Iterator[Made]:
    """What ``make`` makes of each of ``items``, in order; on a CPU with one thread for each."""
    if not _alone(family):
        yield from map(make, items)
        return
    threads = torch.get_num_threads()
    with _one_thread():
        # What is compiled is so on its first call: not in several threads at once.
        if threads == 1 or getattr(family.denoiser, "_compiled_call_impl", None) is not None:
            yield from map(make, items)
            return
        with ThreadPoolExecutor(threads, "drawing", partial(torch.set_num_threads, 1)) as pool:
            yield from pool.map(make, items)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have an operation of this thread, and of those started inside, computed on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _encoded(
    family: Family,
    requests: Sequence[PictureRequest],
    sampler: SamplerConfig,
    guidance: Guidance,
) -> EncodedPrompts:
    """Each prompt of ``requests``, and the empty one where guidance needs it, encoded once."""
    prompts = list(dict.fromkeys(request.prompt for request in requests))
    if guidance.needs_empty and "" not in prompts:
        prompts.append("")
    own = base = _by_text(family, prompts, sampler)
    if guidance.by_base and changes_prompts(family):
        with as_base(family):
            base = _by_text(family, prompts, sampler)
    return EncodedPrompts(own, base)


def _by_text(
    family: Family, prompts: Sequence[str], sampler: SamplerConfig
) -> dict[str, PromptEmbeds]:
    """The embeddings of each of ``prompts``."""
    found: dict[str, PromptEmbeds] = {}
    with _one_thread():
        for batch in _batches(prompts, _at_once(family, sampler)):
            rows = family.encode_prompts(batch)
            found |= {prompt: rows.rows(torch.tensor([row])) for row, prompt in enumerate(batch)}
    return found


def _batches(items: Sequence[Item], count: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), count):
        yield items[start : start + count]


def _drawn(
    family: Family,
    batch: Sequence[PictureRequest],
    size: tuple[int, int],
    embeds: EncodedPrompts,
    sampler: SamplerConfig,
    guidance: Guidance,
) -> list[SampledPicture]:
    latents = _sample(family, batch, size, embeds, sampler, guidance)
    finite = torch.isfinite(latents).flatten(1).all(dim=1).tolist()
    pictures = _decode(family, latents)
    for request, is_finite, pixels in zip(batch, finite, pictures, strict=True):
        _check(request, is_finite, pixels)
    return [SampledPicture(*drawn) for drawn in zip(batch, pictures, strict=True)]


def latent_size(family: Family, request: PictureRequest) -> tuple[int, int]:
    """Height and width of the latents that ``request`` is drawn from.

    Raises:
        BaseModelError: its size is not a multiple of the pixels that a latent covers.
    """
    if request.size is None:
        return family.latent_shape[1:]
    height, width = request.size
    least = family.pixels_per_latent * family.patch
    if min(height, width) < least or height % least or width % least:
        raise BaseModelError(
            f"picture {request.id}: {height}x{width} pixels cannot be drawn: both sides must be "
            f"multiples of the {least} pixels that one latent{' patch' if family.patch > 1 else ''}"
            f" of {family.name} covers."
        )
    return height // family.pixels_per_latent, width // family.pixels_per_latent


@torch.no_grad()
def _sample(
    family: Family,
    batch: Sequence[PictureRequest],
    size: tuple[int, int],
    embeds: EncodedPrompts,
    sampler: SamplerConfig,
    guidance: Guidance,
) -> Tensor:
    """Denoised latents (B, C, h, w) of ``batch``; inside of ``guidance.in_one_pass``."""
    scheduler = build_scheduler(family, sampler, size)
    streams = [torch.Generator("cpu").manual_seed(request.seed) for request in batch]
    shape = (1, family.latent_shape[0], *size)
    noise = torch.cat([torch.randn(shape, generator=stream) for stream in streams])
    # Schedulers that add noise on the way take it from each picture's own stream.
    noisy = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": streams} if noisy else {}
    prompt_embeds = embeds.of(guidance.parts, [request.prompt for request in batch])

    latents = starting_latents(scheduler, noise.to(family.device))
    for timestep in scheduler.timesteps:
        scaled = denoiser_input(scheduler, latents, timestep)
        inputs = torch.cat([scaled] * len(guidance.parts))
        prediction = family.predict(inputs, timestep.expand(len(inputs)), prompt_embeds)
        direction = guidance.direction(prediction, family.guided)
        latents = scheduler.step(direction, timestep, latents, **extra).prev_sample
    return latents


def _decode(family: Family, latents: Tensor) -> list[NDArray[np.uint8]]:
    """The pictures (H, W, 3) of ``latents`` (B, C, h, w), a slice at a time.

    Decoding takes many times the memory of denoising: large pictures are decoded one by one.
    """
    height, width = (side * family.pixels_per_latent for side in latents.shape[-2:])
    size = min(len(latents), max(1, PIXELS_A_SLICE // (height * width)))
    pictures: list[NDArray[np.uint8]] = []
    for part in torch.split(latents, size):
        pixels = family.decode_latents(part).nan_to_num()
        values = (pixels * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()
        pictures.extend(values.numpy())
    return pictures


def _check(request: PictureRequest, is_finite: bool, pixels: NDArray[np.uint8]) -> None:
    flat = bool((pixels == pixels[0, 0]).all())
    if is_finite and not flat:
        return
    fault = "of one flat colour" if is_finite else "not finite"
    raise BaseModelError(
        f"picture {request.id} came out {fault} (prompt {request.prompt!r}, seed {request.seed}): "
        "the base model or its LoRA is broken, or base_model.dtype is too narrow for it; "
        "try float32."
    )
