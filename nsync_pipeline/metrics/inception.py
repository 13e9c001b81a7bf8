"""The Inception-v3 of FID and KID: the network that published figures of both are on.

The paper's network (Szegedy et al., arXiv 1512.00567, section 6) as TensorFlow's graph of
2015-12-05 has it, which FID (Heusel et al., arXiv 1706.08500) took. It is not the Inception-v3 of
today's model libraries: it has 1008 classes, its mean pools leave the padding out, and its last
block pools by maximum. It is written out here because no library has it without torchvision.
Names are those of its checkpoints.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.metrics.extractor import Extractor
from nsync_pipeline.metrics.features import download, refuse_misplaced, sha256_of

FEATURES = 2048
CLASSES = 1008  # no other Inception-v3 has so many: it tells this one's checkpoints from theirs


@dataclass(frozen=True)
class Step:
    """A convolution without bias, batch norm, ReLU."""

    name: str
    width: int  # channels it gives
    kernel: tuple[int, int] = (1, 1)  # height, width
    stride: int = 1
    padded: bool = True  # so that stride 1 keeps the size


@dataclass(frozen=True)
class Route:
    """One way through a block: a pool, steps one after another, and where it forks, its ends."""

    steps: tuple[Step, ...] = ()
    ends: tuple[Step, ...] = ()
    pool: Callable[[Tensor], Tensor] | None = None


def halving(name: str, width: int) -> Step:
    return Step(name, width, (3, 3), stride=2, padded=False)


def numbered(name: str, *sizes: tuple[int, int, int]) -> tuple[Step, ...]:
    """Steps ``<name>_1`` and on, each of so many channels and a kernel of this height and width."""
    return tuple(
        Step(f"{name}_{number}", width, (height, across))
        for number, (width, height, across) in enumerate(sizes, 1)
    )


# The mean, or the maximum, of the up to nine pixels that there are; the last at half the size.
mean_pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
peak_pool = nn.MaxPool2d(3, stride=1, padding=1)
halving_pool = nn.MaxPool2d(3, stride=2)


def wide_paths(pooled: int) -> tuple[Route, ...]:
    """Of the blocks at 35 x 35; ``pooled`` channels come from the pool."""
    return (
        Route((Step("branch1x1", 64),)),
        Route(numbered("branch5x5", (48, 1, 1), (64, 5, 5))),
        Route(numbered("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3))),
        Route((Step("branch_pool", pooled),), pool=mean_pool),
    )


def middle_paths(inner: int) -> tuple[Route, ...]:
    """Of the blocks at 17 x 17, their 7 x 7 convolutions in two; ``inner`` channels between."""
    across, down = (inner, 1, 7), (inner, 7, 1)
    return (
        Route((Step("branch1x1", 192),)),
        Route(numbered("branch7x7", (inner, 1, 1), across, (192, 7, 1))),
        Route(numbered("branch7x7dbl", (inner, 1, 1), down, across, down, (192, 1, 7))),
        Route((Step("branch_pool", 192),), pool=mean_pool),
    )


def forked(name: str) -> tuple[Step, Step]:
    return Step(f"{name}a", 384, (1, 3)), Step(f"{name}b", 384, (3, 1))


def deep_paths(pool: Callable[[Tensor], Tensor]) -> tuple[Route, ...]:
    """Of the blocks at 8 x 8."""
    return (
        Route((Step("branch1x1", 320),)),
        Route(numbered("branch3x3", (384, 1, 1)), forked("branch3x3_2")),
        Route(numbered("branch3x3dbl", (448, 1, 1), (384, 3, 3)), forked("branch3x3dbl_3")),
        Route((Step("branch_pool", 192),), pool=pool),
    )


STEM = (
    halving("Conv2d_1a_3x3", 32),
    Step("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    Step("Conv2d_2b_3x3", 64, (3, 3)),
    Step("Conv2d_3b_1x1", 80),
    Step("Conv2d_4a_3x3", 192, (3, 3), padded=False),
)
POOLED_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")

BLOCKS: dict[str, tuple[Route, ...]] = {
    "Mixed_5b": wide_paths(32),
    "Mixed_5c": wide_paths(64),
    "Mixed_5d": wide_paths(64),
    "Mixed_6a": (
        Route((halving("branch3x3", 384),)),
        Route((*numbered("branch3x3dbl", (64, 1, 1), (96, 3, 3)), halving("branch3x3dbl_3", 96))),
        Route(pool=halving_pool),
    ),
    "Mixed_6b": middle_paths(128),
    "Mixed_6c": middle_paths(160),
    "Mixed_6d": middle_paths(160),
    "Mixed_6e": middle_paths(192),
    "Mixed_7a": (
        Route((*numbered("branch3x3", (192, 1, 1)), halving("branch3x3_2", 320))),
        Route((
            *numbered("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1)),
            halving("branch7x7x3_4", 192),
        )),
        Route(pool=halving_pool),
    ),
    "Mixed_7b": deep_paths(mean_pool),
    "Mixed_7c": deep_paths(peak_pool),
}  # fmt: skip


def unit(inputs: int, step: Step) -> nn.Module:
    """A step's weights, ``conv`` and ``bn``."""
    padding = (step.kernel[0] // 2, step.kernel[1] // 2) if step.padded else 0
    layers = {
        "conv": nn.Conv2d(inputs, step.width, step.kernel, step.stride, padding, bias=False),
        "bn": nn.BatchNorm2d(step.width, eps=1e-3),  # TensorFlow's
        "relu": nn.ReLU(),
    }
    return nn.Sequential(OrderedDict(layers))


class Block(nn.Module):
    """Paths side by side, their channels joined in order."""

    def __init__(self, inputs: int, paths: tuple[Route, ...]) -> None:
        super().__init__()
        self._paths = paths
        self.width = 0  # channels it gives
        for path in paths:
            width = inputs
            for step in path.steps:
                self.add_module(step.name, unit(width, step))
                width = step.width
            for end in path.ends:
                self.add_module(end.name, unit(width, end))
            self.width += sum(end.width for end in path.ends) or width

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for path in self._paths:
            y = x if path.pool is None else path.pool(x)
            for step in path.steps:
                y = self.get_submodule(step.name)(y)
            ends = [self.get_submodule(end.name)(y) for end in path.ends]
            outputs += ends or [y]
        return torch.cat(outputs, dim=1)


class InceptionV3(nn.Module):
    """Pictures (B, 3, 299, 299) in -1 .. 1 to the mean of the last block's pixels, (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for step in STEM:
            self.add_module(step.name, unit(width, step))
            width = step.width
        for name, paths in BLOCKS.items():
            block = Block(width, paths)
            self.add_module(name, block)
            width = block.width
        # Not asked for features: it is here so that every weight of a checkpoint has its place.
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for step in STEM:
            x = self.get_submodule(step.name)(x)
            if step.name in POOLED_AFTER:
                x = halving_pool(x)
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))


@dataclass(frozen=True)
class InceptionPixels:
    """FID's preprocessing; a picture that is no square is squeezed into one."""

    side: int = 299

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


WHERE = "evaluation.inception_extractor"
PATTERNS = ("*.safetensors", "*.pth")
"""The second is how these weights are handed round; of it tensors are read, and no code is run."""
COUNTER = "num_batches_tracked"
"""What a batch norm counts in training; some files have it, and no feature depends on it."""


def load_inception(name: str, revision: str | None, root: Path, device: str) -> Extractor:
    """Load the weights in a file or folder (relative to ``root``), or of a hub id at a revision.

    Raises:
        EvaluationError: they cannot be found or loaded, have missing or extra weights, are of
            another Inception, or are of a hub id without a revision.
    """
    what = f"{WHERE} {name!r}"
    place = root / name
    shown = place.name if place.exists() else name
    if not place.exists():
        place = download(name, revision, WHERE, PATTERNS)
    file = _weights_in(place, what) if place.is_dir() else place
    try:
        model = _model(_read(file), what).to(device)
        return Extractor(model, InceptionPixels(), shown, sha256_of([file]))
    except (OSError, EOFError, ValueError, RuntimeError, KeyError, SafetensorError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise EvaluationError(
            f"{what} cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from error


def _weights_in(folder: Path, what: str) -> Path:
    for pattern in PATTERNS:
        files = sorted(folder.glob(pattern))
        if len(files) > 1:
            raise EvaluationError(
                f"{what}: {len(files)} {pattern} files in it, such as {files[0].name} and "
                f"{files[1].name}; name the one that is meant."
            )
        if files:
            return files[0]
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
