"""Networks that see pictures only: CSD for style, DINOv2 for likeness."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.extractor import in_batches, unit_rows
from nsync_pipeline.metrics.preprocessing import Preprocessing


class VisionExtractor:
    """A frozen vision transformer's pooled output, projected where there is a projection.

    Args:
        model: a ``CLIPVisionModel`` or ``Dinov2Model``: its ``pooler_output`` is the class token
            after the last layer norm, (B, width).
        projection: (width, d), or None.
    """

    def __init__(
        self,
        model: Any,
        projection: Tensor | None,
        preprocessing: Preprocessing,
        name: str,
        sha256: str,
    ) -> None:
        self.name = name
        self.sha256 = sha256
        self.preprocessing = preprocessing
        self._model = model
        self._projection = projection

    @torch.inference_mode()
    def plain_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """(N, d) float64, of pictures of any size; not scaled to unit length."""
        return in_batches(images, batch_size, self._features)

    def image_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """The same rows, each of unit length."""
        return unit_rows(self.plain_features(images, batch_size))

    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([self.preprocessing.pixels(image) for image in images])
        pooled: Tensor = self._model(pixel_values=pixels.to(self._model.device)).pooler_output
        return pooled if self._projection is None else pooled @ self._projection
