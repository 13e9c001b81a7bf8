"""What a feature extractor offers, and how its batches are taken."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nsync_pipeline.metrics.distances import Floats

Item = TypeVar("Item")


class Extractor(Protocol):
    """A frozen network that turns pictures into features."""

    name: str  # `sketchbook`, a hub id, or a folder's name
    sha256: str  # of the weights

    @property
    def preprocessing(self) -> object:
        """How a picture becomes the network's input; its ``repr`` says all of it."""
        ...

    def plain_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """(N, d) float64, of pictures of any size; not scaled to unit length."""
        ...

    def image_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """The same rows, each of unit length."""
        ...


def in_batches(
    items: Iterable[Item], batch_size: int, forward: Callable[[Sequence[Item]], Tensor]
) -> Floats:
    """The rows that ``forward`` gives for all ``items``, (N, d), a batch at a time.

    The last batch is filled up (its last item is repeated), so that every batch has one shape and
    an item's features do not depend on what else there is.
    """
    rows: Iterator[Tensor] = (
        forward(batch + [batch[-1]] * (batch_size - len(batch)))[: len(batch)]
        for batch in _batches(items, batch_size)
    )
    found: Floats = torch.cat([part.to("cpu", torch.float64) for part in rows]).numpy()
    return found


def unit_rows(features: Floats) -> Floats:
    """The rows (N, d), each scaled to unit length."""
    rows: Floats = features / np.linalg.norm(features, axis=1, keepdims=True)
    return rows


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
