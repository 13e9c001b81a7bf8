"""Features for KID and FID that figures of others can be compared with."""

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.extractor import in_batches, unit_rows
from nsync_pipeline.metrics.features import download, refuse_misplaced, sha256_of
from nsync_pipeline.metrics.inception import CLASSES, InceptionV3
from nsync_pipeline.metrics.inception_pixels import InceptionPixels

WHERE = "evaluation.inception_extractor"
PATTERNS = ("*.safetensors", "*.pth")
"""The second is how these weights are handed round; of it tensors are read, and no code is run."""

COUNTER = "num_batches_tracked"
"""What a batch norm counts in training; some files have it, and no feature depends on it."""


class InceptionExtractor:
    """FID's Inception-v3, frozen; an ``Extractor``."""

    def __init__(self, model: InceptionV3, name: str, sha256: str) -> None:
        self.name = name
        self.sha256 = sha256
        self.preprocessing = InceptionPixels()
        self._model = model

    @torch.inference_mode()
    def plain_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """(N, 2048) float64, of pictures of any size; not scaled to unit length."""
        return in_batches(images, batch_size, self._features)

    def image_features(self, images: Iterable[Image.Image], batch_size: int) -> Floats:
        """The same rows, each of unit length."""
        return unit_rows(self.plain_features(images, batch_size))

    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([self.preprocessing.pixels(image) for image in images])
        features: Tensor = self._model(pixels.to(self._model.fc.weight.device))
        return features


def load_inception(name: str, revision: str | None, root: Path, device: str) -> InceptionExtractor:
    """Load the weights in a file or folder (relative to ``root``), or of a hub id at a revision.

    Raises:
        EvaluationError: they cannot be found or loaded, have missing or extra weights, are of
            another Inception, or are of a hub id without a revision.
    """
    what = f"{WHERE} {name!r}"
    place = root / name
    if not place.exists():
        found = _weights_in(download(name, revision, WHERE, PATTERNS), what)
        shown = name
    else:
        found = _weights_in(place, what) if place.is_dir() else place
        shown = place.name
    try:
        return InceptionExtractor(_model(_read(found), what).to(device), shown, sha256_of([found]))
    except (
        OSError, EOFError, ValueError, RuntimeError, KeyError, SafetensorError,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise EvaluationError(
            f"{what} cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from error


def _weights_in(folder: Path, what: str) -> Path:
    for pattern in PATTERNS:
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise EvaluationError(
                f"{what}: {len(found)} {pattern} files in it, such as {found[0].name} and "
                f"{found[1].name}; name the one that is meant."
            )
    raise EvaluationError(f"{what}: neither a .safetensors nor a .pth file in it.")


def _read(file: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor]
    if file.suffix == ".safetensors":
        state = load_file(file)
    elif file.suffix == ".pth":
        state = torch.load(file, map_location="cpu", weights_only=True)
    else:
        raise ValueError(f"{file.name} is neither a .safetensors nor a .pth file")
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{file.name} does not hold the weights of one network by their names")
    return state


def _model(state: dict[str, Tensor], what: str) -> InceptionV3:
    classes = state["fc.weight"].shape[0] if "fc.weight" in state else CLASSES
    if classes != CLASSES:
        raise EvaluationError(
            f"{what} is an Inception-v3 of {classes} classes. FID and KID are on the one of "
            f"{CLASSES}, another network: no published figure could be compared."
        )
    weights = {key: tensor.float() for key, tensor in state.items() if not key.endswith(COUNTER)}
    model = InceptionV3()
    own = {key for key in model.state_dict() if not key.endswith(COUNTER)}
    refuse_misplaced(own ^ set(weights), what)
    model.load_state_dict(weights, strict=False)
    return model.eval().requires_grad_(False)
