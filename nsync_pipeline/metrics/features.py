"""CLIP features of pictures and texts.

Preprocessing is PIL's, and all of it is here: convert to RGB, resize the short side to the model's
size (bicubic), cut out the centre square, scale to [0, 1], subtract the mean and divide by the
deviation that the model's own preprocessor config names.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel
from transformers.utils import logging as transformers_logging

from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.sketchbook.folders import CLIP_FOLDER

EMBEDDED = "sketchbook"
FILES = ("*.safetensors", "*.json", "*.txt")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the model's input."""

    side: int  # pixels
    mean: tuple[float, ...]  # of each of the three channels, in [0, 1]
    deviation: tuple[float, ...]

    def pixels(self, image: Image.Image) -> Tensor:
        """(3, side, side) float32."""
        image = image.convert("RGB")
        scale = self.side / min(image.size)
        if scale != 1.0:
            size = tuple(max(self.side, round(edge * scale)) for edge in image.size)
            image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
        left, top = (image.width - self.side) // 2, (image.height - self.side) // 2
        square = image.crop((left, top, left + self.side, top + self.side))
        array = np.asarray(square, dtype=np.float32) / 255.0
        pixels = torch.from_numpy(array).permute(2, 0, 1)
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (self.mean, self.deviation))
        return ((pixels - mean) / deviation).contiguous()


class ClipExtractor:
    """A frozen CLIP model; features are unit rows, float64, on the CPU."""

    def __init__(
        self, model: Any, tokenizer: Any, preprocessing: Preprocessing, name: str, sha256: str
    ) -> None:
        self.name = name  # `sketchbook`, a hub id, or a folder's name
        self.sha256 = sha256  # of the weights
        self.preprocessing = preprocessing
        self._model = model
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def image_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """(N, d), of pictures of any size."""
        return _unit_rows(self._vision(batch) for batch in _batches(images, batch_size))

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str], batch_size: int) -> Floats:
        """(N, d); a text longer than the model's window is cut (see ``too_long``)."""
        return _unit_rows(self._text(batch) for batch in _batches(texts, batch_size))

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


def load_extractor(name: str, revision: str | None, root: Path, device: str) -> ClipExtractor:
    """Load `sketchbook`, a CLIP folder (relative to ``root``), or a hub id at a pinned revision.

    Safetensors only, no remote code, and every weight must find its place.

    Raises:
        EvaluationError: it cannot be found or loaded, has missing or extra weights, is no CLIP, or
            is a hub id without a revision.
    """
    folder = CLIP_FOLDER if name == EMBEDDED else root / name
    shown = name if name == EMBEDDED else Path(name).name
    if not folder.is_dir():
        folder, shown = _download(name, revision), name
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise EvaluationError(
            f"evaluation.extractor {name!r}: no .safetensors file in it; other formats can hide "
            "code and are not loaded. Convert it, or choose another revision."
        )
    config = _json(folder / "config.json")
    if config.get("model_type") != "clip":
        raise EvaluationError(
            f"evaluation.extractor {name!r} is a {config.get('model_type')!r} model; a CLIP model "
            "(model_type `clip`) is needed."
        )
    preprocessing = read_preprocessing(folder)
    try:
        with _without_progress_bars():
            model, info = CLIPModel.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise EvaluationError(
            f"evaluation.extractor {name!r} cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from error
    misplaced = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if misplaced:
        raise EvaluationError(
            f"evaluation.extractor {name!r}: {len(misplaced)} weights are missing, extra or of "
            f"another shape, such as {min(map(str, misplaced))}: its scores would mean nothing."
        )
    return ClipExtractor(
        model=model.eval().requires_grad_(False).to(device),
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        name=shown,
        sha256=_sha256(weights),
    )


def read_preprocessing(folder: Path) -> Preprocessing:
    """The side, mean and deviation in a CLIP folder's preprocessor config.

    Raises:
        EvaluationError: there is none, or it lacks one of them.
    """
    if (folder / "preprocessor_config.json").is_file():
        config = _json(folder / "preprocessor_config.json")
    else:
        config = _json(folder / "processor_config.json").get("image_processor", {})
    crop = config.get("crop_size")
    side = crop.get("height") if isinstance(crop, dict) else crop
    mean, deviation = config.get("image_mean"), config.get("image_std")
    if not (isinstance(side, int) and mean and deviation):
        raise EvaluationError(
            f"{folder}: its preprocessor config must have crop_size, image_mean and image_std."
        )
    return Preprocessing(side=side, mean=tuple(mean), deviation=tuple(deviation))


def _download(name: str, revision: str | None) -> Path:
    if revision is None:
        raise EvaluationError(
            f"evaluation.extractor {name!r} is no folder here. If it is a hub id, pin it: set "
            "evaluation.extractor_revision to a commit, so that the figures stay comparable."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EvaluationError(
            f"evaluation.extractor {name!r} at revision {revision!r} could not be fetched: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} is missing or damaged: {error}") from error
    return content


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _unit_rows(batches: Iterator[Tensor]) -> Floats:
    rows = torch.cat([batch.to("cpu", torch.float64) for batch in batches])
    features: Floats = torch.nn.functional.normalize(rows, dim=1).numpy()
    return features


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
