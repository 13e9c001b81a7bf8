"""How a picture becomes the input of FID's Inception, as TensorFlow's graph of 2015-12-05 does it.

Bilinear resize of the whole picture to 299 x 299, then ``(x - 128) / 128``. The resize is that of
TensorFlow 1: pixel i of the result is taken at ``i * (pixels before / pixels after)``, the corner
of its area and not the middle, and a picture made smaller is not smoothed. Another resize can move
FID as far as another model does (Parmar et al., arXiv 2104.11222), so it is kept as it was.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIDE = 299


@dataclass(frozen=True)
class InceptionPixels:
    """FID's preprocessing; a picture that is no square is squeezed into one."""

    side: int = SIDE

    def pixels(self, image: Image.Image) -> Tensor:
        """(3, side, side) float32, in -1 .. 1."""
        array = np.asarray(image.convert("RGB"), dtype=np.float32)
        resized = _resized(_resized(array, 1, self.side), 0, self.side)
        return torch.from_numpy((resized - 128.0) / 128.0).permute(2, 0, 1).contiguous()


def _resized(array: NDArray[np.float32], axis: int, size: int) -> NDArray[np.float32]:
    before = array.shape[axis]
    places = np.arange(size, dtype=np.float32) * np.float32(before / size)
    lower = places.astype(np.int64)
    upper = np.minimum(lower + 1, before - 1)
    shape = [1, 1, 1]
    shape[axis] = size
    share = (places - lower.astype(np.float32)).reshape(shape)
    first, second = array.take(lower, axis), array.take(upper, axis)
    resized: NDArray[np.float32] = first + (second - first) * share
    return resized
