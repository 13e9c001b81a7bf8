"""CLIP: pictures and texts in one space (Radford et al., arXiv 2103.00020)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.extractor import Preprocessing, in_batches, unit_rows


class ClipExtractor:
    """A frozen CLIP model's projections; an ``Extractor`` that reads texts, too."""

    def __init__(
        self, model: Any, tokenizer: Any, preprocessing: Preprocessing, name: str, sha256: str
    ) -> None:
        self.name = name
        self.sha256 = sha256
        self.preprocessing = preprocessing
        self._model = model
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def plain_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """(N, d) float64, of pictures of any size; not scaled to unit length."""
        return in_batches(images, batch_size, self._vision)

    def image_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """The same rows, each of unit length."""
        return unit_rows(self.plain_features(images, batch_size))

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str], batch_size: int) -> Floats:
        """(N, d) unit rows; a text longer than the model's window is cut (see ``too_long``)."""
        return unit_rows(in_batches(texts, batch_size, self._text))

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts of which the model reads the beginning only."""
        window = self._window
        return [text for text in texts if len(self._tokenizer(text)["input_ids"]) > window]

    @property
    def _window(self) -> int:
        return int(self._model.config.text_config.max_position_embeddings)

    def _vision(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([self.preprocessing.pixels(image) for image in images])
        pooled = self._model.vision_model(pixel_values=pixels.to(self._model.device)).pooler_output
        features: Tensor = self._model.visual_projection(pooled)
        return features

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
