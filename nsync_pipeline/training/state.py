"""All that changes while a training runs: to a checkpoint, and back from one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.refiner import Refiner
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.training import optimizer as of_optimizer
from nsync_pipeline.training.checkpoint import Checkpoint
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.step_gradients import StepGradients
from nsync_pipeline.training.watch_score import Best, better


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
        """Take in the weights as they are after ``steps`` steps."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_(self.tensors, [w.detach() for w in self._weights], 1.0 - decay)

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Take up the average as it was."""
        for average, tensor in zip(self.tensors, tensors, strict=True):
            average.copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the weights be their average; afterwards they are as they were."""
        own = [weight.detach().clone() for weight in self._weights]
        set_weights(self._weights, self.tensors)
        try:
            yield
        finally:
            set_weights(self._weights, own)


def set_weights(weights: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Give each of ``weights`` its value."""
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)


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
        """Optimizer steps done."""
        return len(self.history)

    def to_save_in_place(self) -> AbstractContextManager[None]:
        """While it is open, the weights are those that would be saved now."""
        return nullcontext() if self.average is None else self.average.in_place()

    def take_score(self, score: float | None) -> None:
        """Keep the weights that are in place now, where their score is the best so far."""
        if score is not None and better(self.best, self.steps, score):
            self.best = Best(self.steps, score)
            self._best_weights = tuple(w.detach().clone() for w in self.trained.weights)

    def put_in_place(self, best: bool) -> int:
        """Let the weights be those to save; returns after how many steps they were there."""
        if best and self.best is not None:
            set_weights(self.trained.weights, self._best_weights)
            return self.best.step
        if self.average is not None:
            set_weights(self.trained.weights, self.average.tensors)
        return self.steps

    def checkpoint(self) -> Checkpoint:
        """All of it, copied to the CPU."""
        weights = [w.detach() for w in self.trained.weights]
        average = () if self.average is None else self.average.tensors
        tensors = {
            **{f"weight.{index}": tensor for index, tensor in enumerate(weights)},
            **{f"average.{index}": tensor for index, tensor in enumerate(average)},
            **{f"best.{index}": tensor for index, tensor in enumerate(self._best_weights)},
            **_named("optimizer", of_optimizer.state_tensors(self.optimizer, self.trained.weights)),
            **_named("refiner", self.refiner.state_tensors()),
        }
        return Checkpoint(
            step=self.steps,
            tensors={name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()},
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
        saved = _of("weight", checkpoint.tensors)
        if {name: tensor.shape for name, tensor in saved.items()} != {
            str(index): weight.shape for index, weight in enumerate(weights)
        }:
            raise TrainingError("a checkpoint of these inputs does not fit what is trained")
        set_weights(weights, _in_order(saved))
        of_optimizer.restore(self.optimizer, weights, _of("optimizer", checkpoint.tensors))
        self.refiner.restore(_of("refiner", checkpoint.tensors))
        if self.average is not None:
            self.average.restore(_in_order(_of("average", checkpoint.tensors)))
        best = _in_order(_of("best", checkpoint.tensors))
        self._best_weights = tuple(b.to(w) for b, w in zip(best, weights, strict=False))
        self.best = checkpoint.best
        self.gradients.branch_pass.plan = checkpoint.plan
        self.gradients.loss_scale = checkpoint.loss_scale
        self.history = list(checkpoint.history)
        self.held_out = dict(checkpoint.held_out)


def _named(whose: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{whose}.{name}": tensor for name, tensor in tensors.items()}


def _of(whose: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{whose}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _in_order(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensors[str(index)] for index in range(len(tensors))]
