"""What is known of the negative direction: this step's gradients, their running mean, or a basis.

One step's negative gradient is mostly noise. The two estimates keep *directions*, ``n / |n|``, so
that one large gradient does not outweigh the others:

- running mean of decay ``b``, with ``x_t`` the mean of the step's directions, corrected for its
  start as Adam's moments are: ``e_t = (b (1 - b^(t-1)) e_(t-1) + (1 - b) x_t) / (1 - b^t)``;
- running basis: the last so many directions; what is projected out is their span.

Memory: a vector of all trained weights, in their number type, for the mean; one for each direction
of the basis.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nsync_pipeline.contrast.config import ContrastConfig

VECTORS, STEPS = "negative_estimate.vectors", "negative_estimate.steps"


class NegativeEstimate(Protocol):
    """The directions to project out, as linear combinations of vectors there are."""

    unit: bool
    """Whether the directions are near the length 1, and not of a gradient's."""
    rows: list[Tensor]
    """Vectors (d,) kept from the steps before."""

    def directions(self, norms: Sequence[float]) -> Tensor:
        """The directions, (m, N + R): combinations of this step's negatives and of ``rows``.

        ``norms`` (N,) are those of the negatives; 0 says that one is absent.
        """

    def take_in(self, negatives: Sequence[Tensor], norms: Sequence[float]) -> None:
        """Keep of this step's negatives (d,) what the next step is to know."""

    def state_tensors(self) -> dict[str, Tensor]:
        """What is kept, for a checkpoint."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what ``state_tensors`` gave."""


def negative_estimate(contrast: ContrastConfig, size: int) -> NegativeEstimate:
    """The estimate that ``contrast`` asks for, of ``size`` trained numbers."""
    if contrast.negative_estimate == "running_mean":
        return RunningMean(contrast.running_decay, size)
    if contrast.negative_estimate == "running_basis":
        return RunningBasis(contrast.basis_size, size)
    return StepNegatives()


class StepNegatives:
    """This step's negatives themselves."""

    unit = False

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def directions(self, norms: Sequence[float]) -> Tensor:
        return torch.eye(len(norms), dtype=torch.float64)

    def take_in(self, negatives: Sequence[Tensor], norms: Sequence[float]) -> None:
        """Nothing is kept."""

    def state_tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """There is nothing to take up."""


class RunningMean:
    """The exponential average of the directions, corrected for its start: one direction."""

    unit = True

    def __init__(self, decay: float, size: int) -> None:
        self.rows: list[Tensor] = []
        self._decay = decay
        self._size = size
        self._steps = 0  # that had a negative

    def directions(self, norms: Sequence[float]) -> Tensor:
        return torch.tensor([self._factors(norms)], dtype=torch.float64)

    def take_in(self, negatives: Sequence[Tensor], norms: Sequence[float]) -> None:
        if not any(norms):
            return
        vectors = [*negatives, *self.rows]
        factors = self._factors(norms)
        mean = torch.zeros_like(vectors[0])
        for vector, factor in zip(vectors, factors, strict=True):
            if factor:
                mean.add_(vector, alpha=factor)
        self.rows = [mean]
        self._steps += 1

    def _factors(self, norms: Sequence[float]) -> list[float]:
        there = sum(norm > 0 for norm in norms)
        if not there:
            return [0.0] * len(norms) + [1.0] * len(self.rows)
        total = 1 - self._decay ** (self._steps + 1)
        new = [(1 - self._decay) / (total * there * norm) if norm else 0.0 for norm in norms]
        old = self._decay * (1 - self._decay**self._steps) / total
        return new + [old] * len(self.rows)

    def state_tensors(self) -> dict[str, Tensor]:
        return _state(self.rows, self._steps)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.rows, self._steps = _restored(tensors, self._size)


class RunningBasis:
    """The most recent directions, oldest first."""

    unit = True

    def __init__(self, most: int, size: int) -> None:
        self.rows: list[Tensor] = []
        self._most = most
        self._size = size

    def directions(self, norms: Sequence[float]) -> Tensor:
        scales = [1 / norm if norm else 0.0 for norm in norms] + [1.0] * len(self.rows)
        every = torch.diag(torch.tensor(scales, dtype=torch.float64))
        dropped = len(self.rows) - self._kept(norms)
        return torch.cat([every[: len(norms)], every[len(norms) + dropped :]])

    def take_in(self, negatives: Sequence[Tensor], norms: Sequence[float]) -> None:
        new = [n * (1 / norm) for n, norm in zip(negatives, norms, strict=True) if norm]
        self.rows = [*self.rows[len(self.rows) - self._kept(norms) :], *new]

    def _kept(self, norms: Sequence[float]) -> int:
        """How many of the rows stay beside this step's directions."""
        return min(len(self.rows), self._most - sum(norm > 0 for norm in norms))

    def state_tensors(self) -> dict[str, Tensor]:
        return _state(self.rows, len(self.rows))

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.rows, _ = _restored(tensors, self._size)


def _state(rows: Sequence[Tensor], steps: int) -> dict[str, Tensor]:
    if not rows:
        return {}
    return {VECTORS: torch.stack(list(rows)), STEPS: torch.tensor(steps)}


def _restored(tensors: Mapping[str, Tensor], size: int) -> tuple[list[Tensor], int]:
    """The rows (of ``size`` numbers each) and the steps in ``tensors``.

    Raises:
        ValueError: they are of other weights.
    """
    if VECTORS not in tensors:
        return [], 0
    vectors = tensors[VECTORS]
    if vectors.dim() != 2 or vectors.shape[1] != size:
        shape = tuple(vectors.shape)
        raise ValueError(
            f"the running estimate is of shape {shape}, and {size} numbers are trained"
        )
    return list(vectors.unbind()), int(tensors[STEPS])
