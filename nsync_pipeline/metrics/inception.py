"""The Inception-v3 of FID and KID: the network that published figures of both are on.

The paper's network (Szegedy et al., arXiv 1512.00567, section 6) as TensorFlow's graph of
2015-12-05 has it, which FID (Heusel et al., arXiv 1706.08500) took. It is not the Inception-v3 of
today's model libraries: it has 1008 classes, its mean pools leave the padding out, and its last
block pools by maximum. It is written out here because no library has it without torchvision.
Names are those of its checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 2048
CLASSES = 1008
"""No other Inception-v3 has so many: it tells this one's checkpoints from theirs."""

NORM_EPSILON = 1e-3  # TensorFlow's


@dataclass(frozen=True)
class Step:
    """A convolution without bias, batch norm, ReLU."""

    name: str
    width: int  # channels it gives
    kernel: tuple[int, int] = (1, 1)  # height, width
    stride: int = 1
    padded: bool = True  # so that stride 1 keeps the size


@dataclass(frozen=True)
class Path:
    """One way through a block: a pool, steps one after another, and where it forks, its ends."""

    steps: tuple[Step, ...] = ()
    ends: tuple[Step, ...] = ()
    pool: Callable[[Tensor], Tensor] | None = None


def halving(name: str, width: int) -> Step:
    """A step that halves the size."""
    return Step(name, width, (3, 3), stride=2, padded=False)


def mean_pool(x: Tensor) -> Tensor:
    """The mean of the up to nine pixels that there are."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def peak_pool(x: Tensor) -> Tensor:
    """The maximum of the same."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def halving_pool(x: Tensor) -> Tensor:
    """The maximum, at half the size."""
    return F.max_pool2d(x, 3, stride=2)


def wide_paths(pooled: int) -> tuple[Path, ...]:
    """Of the blocks at 35 x 35; ``pooled`` channels come from the pool."""
    return (
        Path((Step("branch1x1", 64),)),
        Path((Step("branch5x5_1", 48), Step("branch5x5_2", 64, (5, 5)))),
        Path(
            (
                Step("branch3x3dbl_1", 64),
                Step("branch3x3dbl_2", 96, (3, 3)),
                Step("branch3x3dbl_3", 96, (3, 3)),
            )
        ),
        Path((Step("branch_pool", pooled),), pool=mean_pool),
    )


def middle_paths(inner: int) -> tuple[Path, ...]:
    """Of the blocks at 17 x 17, their 7 x 7 convolutions in two; ``inner`` channels between."""
    across, down = (1, 7), (7, 1)
    return (
        Path((Step("branch1x1", 192),)),
        Path(
            (
                Step("branch7x7_1", inner),
                Step("branch7x7_2", inner, across),
                Step("branch7x7_3", 192, down),
            )
        ),
        Path(
            (
                Step("branch7x7dbl_1", inner),
                Step("branch7x7dbl_2", inner, down),
                Step("branch7x7dbl_3", inner, across),
                Step("branch7x7dbl_4", inner, down),
                Step("branch7x7dbl_5", 192, across),
            )
        ),
        Path((Step("branch_pool", 192),), pool=mean_pool),
    )


def deep_paths(pool: Callable[[Tensor], Tensor]) -> tuple[Path, ...]:
    """Of the blocks at 8 x 8."""

    def ends(name: str) -> tuple[Step, ...]:
        return Step(f"{name}a", 384, (1, 3)), Step(f"{name}b", 384, (3, 1))

    return (
        Path((Step("branch1x1", 320),)),
        Path((Step("branch3x3_1", 384),), ends("branch3x3_2")),
        Path(
            (Step("branch3x3dbl_1", 448), Step("branch3x3dbl_2", 384, (3, 3))),
            ends("branch3x3dbl_3"),
        ),
        Path((Step("branch_pool", 192),), pool=pool),
    )


STEM = (
    halving("Conv2d_1a_3x3", 32),
    Step("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    Step("Conv2d_2b_3x3", 64, (3, 3)),
    Step("Conv2d_3b_1x1", 80),
    Step("Conv2d_4a_3x3", 192, (3, 3), padded=False),
)
POOLED_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")

BLOCKS: dict[str, tuple[Path, ...]] = {
    "Mixed_5b": wide_paths(32),
    "Mixed_5c": wide_paths(64),
    "Mixed_5d": wide_paths(64),
    "Mixed_6a": (
        Path((halving("branch3x3", 384),)),
        Path(
            (
                Step("branch3x3dbl_1", 64),
                Step("branch3x3dbl_2", 96, (3, 3)),
                halving("branch3x3dbl_3", 96),
            )
        ),
        Path(pool=halving_pool),
    ),
    "Mixed_6b": middle_paths(128),
    "Mixed_6c": middle_paths(160),
    "Mixed_6d": middle_paths(160),
    "Mixed_6e": middle_paths(192),
    "Mixed_7a": (
        Path((Step("branch3x3_1", 192), halving("branch3x3_2", 320))),
        Path(
            (
                Step("branch7x7x3_1", 192),
                Step("branch7x7x3_2", 192, (1, 7)),
                Step("branch7x7x3_3", 192, (7, 1)),
                halving("branch7x7x3_4", 192),
            )
        ),
        Path(pool=halving_pool),
    ),
    "Mixed_7b": deep_paths(mean_pool),
    "Mixed_7c": deep_paths(peak_pool),
}


class Unit(nn.Module):
    """A step's weights."""

    def __init__(self, inputs: int, step: Step) -> None:
        super().__init__()
        padding = (step.kernel[0] // 2, step.kernel[1] // 2) if step.padded else 0
        self.conv = nn.Conv2d(inputs, step.width, step.kernel, step.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(step.width, eps=NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Paths side by side, their channels joined in order."""

    def __init__(self, inputs: int, paths: tuple[Path, ...]) -> None:
        super().__init__()
        self._paths = paths
        self.width = 0  # channels it gives
        for path in paths:
            width = inputs
            for step in path.steps:
                self.add_module(step.name, Unit(width, step))
                width = step.width
            for end in path.ends:
                self.add_module(end.name, Unit(width, end))
            self.width += sum(end.width for end in path.ends) or width

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for path in self._paths:
            y = x if path.pool is None else path.pool(x)
            for step in path.steps:
                y = self.get_submodule(step.name)(y)
            ends = [self.get_submodule(end.name)(y) for end in path.ends]
            found += ends or [y]
        return torch.cat(found, dim=1)


class InceptionV3(nn.Module):
    """Pictures (B, 3, 299, 299) in -1 .. 1 to the mean of the last block's pixels, (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for step in STEM:
            self.add_module(step.name, Unit(width, step))
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
