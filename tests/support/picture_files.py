"""Picture files for the tests of all rooms."""

from pathlib import Path

import numpy as np
from PIL import Image


def textured(seed: int, width: int = 96, height: int = 80) -> Image.Image:
    """A smooth random RGB picture: different seeds look different, and scaling keeps its look."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, seed: int, width: int = 96, height: int = 80) -> Path:
    """Save ``textured`` in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    textured(seed, width, height).save(path)
    return path
