"""The training pictures and prompts as the denoiser takes them, encoded once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nsync_pipeline.families.family import Family, PromptEmbeds

ENCODED_AT_ONCE = 16
"""Pictures or prompts a pass; it is part of what makes a latent (rounding), so it is fixed."""


@dataclass(frozen=True)
class Example:
    """One picture, what is said of it, and its negatives."""

    id: str
    picture: Path
    prompt: str
    negatives: tuple[Path, ...] = ()


@dataclass(frozen=True)
class EncodedSet:
    """Examples in memory, on the CPU."""

    ids: tuple[str, ...]
    latents: Tensor  # (N, C, h, w) float32, of the pictures
    negative_latents: Tensor  # (M, C, h, w) float32; those of one picture are together
    negative_counts: tuple[int, ...]  # a picture: they sum to M
    prompt_embeds: PromptEmbeds  # N rows
    empty_prompt_embeds: PromptEmbeds  # one row, of the prompt ""

    def negative_row(self, picture: int, negative: int) -> int:
        """Where the ``negative``-th negative of ``picture`` is in ``negative_latents``."""
        return sum(self.negative_counts[:picture]) + negative


def encode_examples(
    family: Family,
    examples: Sequence[Example],
    load_pixels: Callable[[Path, int], Tensor],
    on_picture: Callable[[int, int], None],
) -> EncodedSet:
    """Encode ``examples``, one or more, with the family's VAE and text encoder.

    ``load_pixels`` gives a picture at the family's resolution, (3, H, W) in [-1, 1]: a positive and
    its negatives go through the same, so that they share their geometry. ``on_picture`` is told
    how many pictures of how many are done.
    """
    positives = [example.picture for example in examples]
    negatives = [path for example in examples for path in example.negatives]
    total = len(positives) + len(negatives)

    def encoded(paths: Sequence[Path], done: int) -> Tensor:
        parts = []
        for start in range(0, len(paths), ENCODED_AT_ONCE):
            chunk = paths[start : start + ENCODED_AT_ONCE]
            pixels = torch.stack([load_pixels(path, family.resolution) for path in chunk])
            parts.append(family.encode_pictures(pixels).float().cpu())
            on_picture(done + start + len(chunk), total)
        return torch.cat(parts) if parts else torch.empty(0, *family.latent_shape)

    return EncodedSet(
        ids=tuple(example.id for example in examples),
        latents=encoded(positives, 0),
        negative_latents=encoded(negatives, len(positives)),
        negative_counts=tuple(len(example.negatives) for example in examples),
        prompt_embeds=_encoded_prompts(family, [example.prompt for example in examples]),
        empty_prompt_embeds=_encoded_prompts(family, [""]),
    )


def _encoded_prompts(family: Family, prompts: Sequence[str]) -> PromptEmbeds:
    parts = []
    for start in range(0, len(prompts), ENCODED_AT_ONCE):
        embeds = family.encode_prompts(prompts[start : start + ENCODED_AT_ONCE])
        pooled = None if embeds.pooled is None else embeds.pooled.cpu()
        parts.append(PromptEmbeds(embeds.tokens.cpu(), pooled))
    return PromptEmbeds.cat(parts)
