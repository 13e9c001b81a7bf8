"""Stored pictures as tensors."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nsync_pipeline.errors import MissingArtifactError


def load_pixels(path: Path, resolution: int) -> Tensor:
    """The stored picture at ``path`` as a model sees it: (3, resolution, resolution) in [-1, 1].

    The centre square is cut out, resized by Lanczos, and mapped by ``x / 127.5 - 1`` (float32).

    Raises:
        MissingArtifactError: the file is not there, or is not a whole picture.
    """
    try:
        with Image.open(path) as image:
            square = centre_square(image.convert("RGB"), resolution)
    except (OSError, UnidentifiedImageError) as error:
        raise MissingArtifactError(
            f"{path} is not there or is damaged: run the stage that makes it again. ({error})"
        ) from error
    return pixels_of(square)


def pixels_of(image: Image.Image) -> Tensor:
    """An RGB image ``(H, W)`` as a float32 tensor ``(3, H, W)`` in [-1, 1]."""
    array = np.array(image, dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous() / 127.5 - 1.0


def centre_square(image: Image.Image, side: int) -> Image.Image:
    """The largest centred square of ``image``, at ``side`` x ``side`` pixels (Lanczos).

    Where the margin is odd, its larger half is on the right or at the bottom.
    """
    shorter = min(image.size)
    left = (image.width - shorter) // 2
    top = (image.height - shorter) // 2
    square = image.crop((left, top, left + shorter, top + shorter))
    if shorter == side:
        return square
    return square.resize((side, side), Image.Resampling.LANCZOS)
