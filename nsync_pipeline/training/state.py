"""All that changes while a training runs: to a checkpoint, and back from one."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.refiner import Refiner
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.training import optimizer as of_optimizer
from nsync_pipeline.training.checkpoint import Best, Checkpoint
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.step_gradients import StepGradients


class WeightAverage:
    """``average <- d average + (1 - d) weights`` after each step, from the first weights on.

    ``d = min(decay, (1 + n) / (10 + n))`` after step ``n``, so that a short training's average does
    not stay at its start. Source: diffusers' EMAModel, after TensorFlow's.
    """

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self._weights = tuple(weights)
        self._decay = decay
        self.tensors: tuple[Tensor, ...] = tuple(w.detach().clone() for w in weights)

    def update(self, steps: int) -> None:
        decay = min(self._decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_(self.tensors, [w.detach() for w in self._weights], 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the weights be their average; afterwards they are as they were."""
        own = [weight.detach().clone() for weight in self._weights]
        _set(self._weights, self.tensors)
        try:
            yield
        finally:
            _set(self._weights, own)


def _set(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


@dataclass
class TrainingState:
    """The parts of a training that a step changes. Everything random is a function of the step."""

    trained: TrainedWeights
    optimizer: torch.optim.Optimizer
    refiner: Refiner
    gradients: StepGradients
    average: WeightAverage | None
    best: Best | None = None
    history: list[StepRecord] = field(default_factory=list)
    held_out: dict[int, float] = field(default_factory=dict)
    _best_weights: tuple[Tensor, ...] = ()

    @property
    def steps(self) -> int:
        return len(self.history)

    def to_save_in_place(self) -> AbstractContextManager[None]:
        """While it is open, the weights are those that would be saved now."""
        if self.average is None:
            return of_optimizer.to_save(self.optimizer, self.trained.weights)
        return self.average.in_place()

    def take_score(self, score: float | None) -> None:
        """Keep the weights that are in place now, where their score is the best so far.

        Untrained weights never are. Of two with the same score the earlier is: what was learned
        since brought nothing.
        """
        if score is None or self.steps == 0:
            return
        if self.best is None or score > self.best.score:
            self.best = Best(self.steps, score)
            self._best_weights = tuple(w.detach().clone() for w in self.trained.weights)

    def put_in_place(self, best: bool) -> int:
        """Let the weights be those to save; returns after how many steps they were there."""
        if best and self.best is not None:
            _set(self.trained.weights, self._best_weights)
            return self.best.step
        with self.to_save_in_place():
            kept = [weight.detach().clone() for weight in self.trained.weights]
        _set(self.trained.weights, kept)
        return self.steps

    def checkpoint(self) -> Checkpoint:
        """All of it, copied to the CPU."""
        weights, size = self.trained.weights, self.gradients.margin_size
        parts = {
            "weight": _numbered([weight.detach() for weight in weights]),
            "average": _numbered(() if self.average is None else self.average.tensors),
            "best": _numbered(self._best_weights),
            "optimizer": of_optimizer.state_tensors(self.optimizer, weights),
            "refiner": self.refiner.state_tensors(),
            "margin": {} if size is None else {"size": torch.tensor(size, dtype=torch.float64)},
        }
        return Checkpoint(
            step=self.steps,
            tensors={
                f"{whose}.{name}": tensor.to("cpu", copy=True)
                for whose, part in parts.items()
                for name, tensor in part.items()
            },
            history=tuple(self.history),
            held_out=dict(self.held_out),
            plan=self.gradients.branch_pass.plan,
            loss_scale=self.gradients.loss_scale,
            best=self.best,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where ``checkpoint`` was taken.

        Raises:
            TrainingError: it is not of these weights.
        """
        weights = self.trained.weights
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in checkpoint.tensors.items():
            whose, _, name = key.partition(".")
            parts[whose][name] = tensor
        saved = _in_order(parts["weight"])
        if [tensor.shape for tensor in saved] != [weight.shape for weight in weights]:
            raise TrainingError("a checkpoint of these inputs does not fit what is trained")
        _set(weights, saved)
        of_optimizer.restore(self.optimizer, weights, parts["optimizer"])
        self.refiner.restore(parts["refiner"])
        margin = parts["margin"].get("size")
        self.gradients.margin_size = None if margin is None else float(margin)
        if self.average is not None:
            _set(self.average.tensors, _in_order(parts["average"]))
        best = _in_order(parts["best"])
        self._best_weights = tuple(b.to(w) for b, w in zip(best, weights, strict=False))
        self.best = checkpoint.best
        self.gradients.branch_pass.plan = checkpoint.plan
        self.gradients.loss_scale = checkpoint.loss_scale
        self.history = list(checkpoint.history)
        self.held_out = dict(checkpoint.held_out)


def _numbered(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(index): tensor for index, tensor in enumerate(tensors)}


def _in_order(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensors[str(index)] for index in range(len(tensors))]
