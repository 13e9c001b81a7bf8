"""What the training loop is tried on: a tiny Stable Diffusion and four encoded pictures."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.families.family import Family
from nsync_pipeline.training.encoded_set import (
    EncodedSet,
    Example,
    StoredPicture,
    StylePrompts,
    encode_examples,
)
from tests.support.tiny_models import TINY_RESOLUTION
from tests.support.tiny_style import CAPTIONS_IN_TURN, tiny_family

LORA = LoraSettings(rank=2, alpha=2.0)


@pytest.fixture(scope="module")
def family(tiny_base: Path) -> Family:
    return tiny_family(tiny_base)


def noise_pictures(path: Path, size: tuple[int, int]) -> Tensor:
    """A picture that depends on its name alone."""
    generator = torch.Generator().manual_seed(int(path.stem))
    return torch.rand(3, *size, generator=generator) * 2 - 1


def stored(name: int) -> StoredPicture:
    return StoredPicture(Path(f"{name}"), f"hash of {name}", TINY_RESOLUTION, TINY_RESOLUTION)


@pytest.fixture(scope="module")
def examples(family: Family) -> EncodedSet:
    return encoded_examples(family)


def encoded_examples(family: Family, mirrored: bool = False) -> EncodedSet:
    of = [
        Example(f"p{i}", stored(i), CAPTIONS_IN_TURN[i % 3], (stored(10 + i), stored(20 + i)))
        for i in range(4)
    ]
    return encode_examples(
        family, of, noise_pictures, lambda done, total: None,
        style_prompts=StylePrompts("in the style of sks", "not in the style of sks"),
        mirrored=mirrored,
    )  # fmt: skip


def largest_difference(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))
