"""What is known of the negative direction: this step's gradients, their running mean, or a basis.

One step's negative gradient is mostly noise. The running estimates (their formulas are in
``rules``) keep *directions*, ``n / |n|``, so that one large gradient does not outweigh the others:
for the mean one vector of all trained weights, in their number type, and for the basis one for each
of its directions.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nsync_pipeline.contrast.config import ContrastConfig

VECTORS, STEPS = "negative_estimate.vectors", "negative_estimate.steps"


class NegativeEstimate:
    """The directions to project out, as combinations of the vectors there are.

    ``rows`` are the vectors (d,) kept from the steps before: the mean, or the basis' directions,
    oldest first.
    """

    def __init__(self, contrast: ContrastConfig, size: int) -> None:
        self.kind = contrast.negative_estimate
        self.rows: list[Tensor] = []
        self._decay = contrast.running_decay
        self._most = contrast.basis_size
        self._size = size  # how many numbers are trained
        self._steps = 0  # of the mean: those that had a negative

    def directions(self, norms: Sequence[float]) -> Tensor:
        """The directions, (m, N + R): combinations of this step's negatives and of ``rows``.

        ``norms`` (N,) are those of the negatives; 0 says that one is absent.
        """
        if self.kind == "step":
            return torch.eye(len(norms), dtype=torch.float64)
        if self.kind == "running_mean":
            return torch.tensor([self._mean_factors(norms)], dtype=torch.float64)
        scales = [1 / norm if norm else 0.0 for norm in norms] + [1.0] * len(self.rows)
        every = torch.diag(torch.tensor(scales, dtype=torch.float64))
        dropped = len(self.rows) - self._kept(norms)
        return torch.cat([every[: len(norms)], every[len(norms) + dropped :]])

    def take_in(self, negatives: Sequence[Tensor], norms: Sequence[float]) -> None:
        """Keep of this step's negatives (d,) what the next step is to know."""
        if self.kind == "step" or not any(norms):
            return
        if self.kind == "running_basis":
            new = [n * (1 / norm) for n, norm in zip(negatives, norms, strict=True) if norm]
            self.rows = [*self.rows[len(self.rows) - self._kept(norms) :], *new]
            return
        mean = torch.zeros_like(negatives[0])
        vectors = [*negatives, *self.rows]
        for vector, factor in zip(vectors, self._mean_factors(norms), strict=True):
            if factor:
                mean.add_(vector, alpha=factor)
        self.rows = [mean]
        self._steps += 1

    def _mean_factors(self, norms: Sequence[float]) -> list[float]:
        there = sum(norm > 0 for norm in norms)
        if not there:
            return [0.0] * len(norms) + [1.0] * len(self.rows)
        total = 1 - self._decay ** (self._steps + 1)
        new = [(1 - self._decay) / (total * there * norm) if norm else 0.0 for norm in norms]
        old = self._decay * (1 - self._decay**self._steps) / total
        return new + [old] * len(self.rows)

    def _kept(self, norms: Sequence[float]) -> int:
        """How many of the basis' rows stay beside this step's directions."""
        return min(len(self.rows), self._most - sum(norm > 0 for norm in norms))

    def state_tensors(self) -> dict[str, Tensor]:
        """What is kept, for a checkpoint."""
        if not self.rows:
            return {}
        steps = self._steps if self.kind == "running_mean" else len(self.rows)
        return {VECTORS: torch.stack(self.rows), STEPS: torch.tensor(steps)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what ``state_tensors`` gave, among other tensors or alone.

        Raises:
            ValueError: it is of another number of trained weights.
        """
        if VECTORS not in tensors or self.kind == "step":
            self.rows, self._steps = [], 0
            return
        vectors = tensors[VECTORS]
        if vectors.dim() != 2 or vectors.shape[1] != self._size:
            raise ValueError(
                f"the running estimate is of shape {tuple(vectors.shape)}, and {self._size} "
                "numbers are trained"
            )
        self.rows, self._steps = list(vectors.unbind()), int(tensors[STEPS])
