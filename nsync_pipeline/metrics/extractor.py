"""Feature extractors: what they offer, how a picture becomes their input, how batches are taken."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nsync_pipeline import files
from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.metrics.distances import Floats

Item = TypeVar("Item")


class Preprocesses(Protocol):
    """How a picture becomes the network's input, (3, s, s) float32."""

    def pixels(self, image: Image.Image) -> Tensor: ...


class Extractor:
    """A frozen network that turns pictures into features."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocesses, name: str, sha256: str
    ) -> None:
        self.name = name  # `sketchbook`, a hub id, or a folder's or file's name
        self.sha256 = sha256  # of the weights
        self.preprocessing = preprocessing  # its ``repr`` says all of it
        self._network = network  # pixels (B, 3, s, s) to features (B, d)

    @torch.inference_mode()
    def plain_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """(N, d) float64, of pictures of any size; not scaled to unit length."""
        return in_batches(images, batch_size, self._features)

    def image_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """The same rows, each of unit length."""
        return unit_rows(self.plain_features(images, batch_size))

    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([self.preprocessing.pixels(image) for image in images])
        features: Tensor = self._network(pixels.to(next(self._network.parameters()).device))
        return features


class ClipExtractor(Extractor):
    """CLIP: pictures and texts in one space (Radford et al., arXiv 2103.00020)."""

    def __init__(
        self, model: Any, tokenizer: Any, preprocessing: Preprocesses, name: str, sha256: str
    ) -> None:
        vision = PooledVision(model.vision_model, model.visual_projection)
        super().__init__(vision, preprocessing, name, sha256)
        self._model = model
        self._tokenizer = tokenizer
        self._window = int(model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str], batch_size: int) -> Floats:
        """(N, d) unit rows; a text longer than the model's window is cut (see ``too_long``)."""
        return unit_rows(in_batches(texts, batch_size, self._text))

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts of which the model reads the beginning only."""
        return [text for text in texts if len(self._tokenizer(text)["input_ids"]) > self._window]

    def _text(self, texts: Sequence[str]) -> Tensor:
        # Always padded to the whole window, so that a text's features do not depend on its batch.
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._window,
            return_tensors="pt",
        ).to(self._model.device)  # fmt: skip
        pooled = self._model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        features: Tensor = self._model.text_projection(pooled)
        return features


class PooledVision(nn.Module):
    """A vision transformer's pooled output, the class token after the last norm, projected.

    ``model`` is a ``CLIPVisionModel`` or ``Dinov2Model``; the projection (B, width) to (B, d).
    """

    def __init__(self, model: nn.Module, projection: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.projection = projection

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.projection(self.model(pixel_values=pixels).pooler_output)
        return features


def in_batches(
    items: Iterable[Item], batch_size: int, forward: Callable[[Sequence[Item]], Tensor]
) -> Floats:
    """The rows that ``forward`` gives for all ``items``, (N, d), a batch at a time.

    The last batch is filled up (its last item is repeated), so that every batch has one shape and
    an item's features do not depend on what else there is.
    """
    source, rows = iter(items), []
    while batch := list(islice(source, batch_size)):
        filled = batch + [batch[-1]] * (batch_size - len(batch))
        there = forward(filled)[: len(batch)]
        rows.append(there.cpu().double())  # in this order: MPS has no float64
    features: Floats = torch.cat(rows).numpy()
    return features


def unit_rows(features: Floats) -> Floats:
    """The rows (N, d), each scaled to unit length."""
    rows: Floats = features / np.linalg.norm(features, axis=1, keepdims=True)
    return rows


@dataclass(frozen=True)
class Preprocessing:
    """As transformers and torchvision do it: sizes are cut down to whole pixels."""

    side: int  # pixels
    resize: int  # pixels of the short side, before the square is cut out
    mean: tuple[float, ...]  # of each of the three channels, in [0, 1]
    deviation: tuple[float, ...]
    halves_to_even: bool = False
    """Of the square's place, as torchvision has it; else they are cut off, as in transformers."""

    def pixels(self, image: Image.Image) -> Tensor:
        """(3, side, side) float32."""
        image = image.convert("RGB")
        short = min(image.size)
        if short != self.resize:
            width, height = (self.resize * edge // short for edge in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (
            round(half) if self.halves_to_even else int(half)
            for half in ((edge - self.side) / 2 for edge in image.size)
        )
        square = image.crop((left, top, left + self.side, top + self.side))
        array = np.asarray(square, dtype=np.float32) / 255.0
        pixels = torch.from_numpy(array).permute(2, 0, 1)
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (self.mean, self.deviation))
        return ((pixels - mean) / deviation).contiguous()


def read_preprocessing(folder: Path) -> Preprocessing:
    """What a model folder's preprocessor config says.

    Raises:
        EvaluationError: there is none, or it lacks one of them.
    """
    if (folder / "preprocessor_config.json").is_file():
        config = read_json(folder / "preprocessor_config.json")
    else:
        config = read_json(folder / "processor_config.json").get("image_processor", {})
    crop = config.get("crop_size")
    side = crop.get("height") if isinstance(crop, dict) else crop
    size = config.get("size")
    resize = size.get("shortest_edge") if isinstance(size, dict) else size
    mean, deviation = config.get("image_mean"), config.get("image_std")
    if not (isinstance(side, int) and mean and deviation):
        raise EvaluationError(
            f"{folder}: its preprocessor config must have crop_size, image_mean and image_std."
        )
    return Preprocessing(
        side=side,
        resize=resize if isinstance(resize, int) and resize >= side else side,
        mean=tuple(mean),
        deviation=tuple(deviation),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that has to be there.

    Raises:
        EvaluationError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = dict(files.read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise EvaluationError(f"{path} is missing or damaged: {error}") from error
    return content
