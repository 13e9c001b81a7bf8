"""The training: batch, branch gradients, refinement, clip, step."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nsync_pipeline.adaptation.lora import ADAPTER
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.branch_gradients import BranchPass
from nsync_pipeline.contrast.refiner import Refinement, Refiner
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.training.batches import batch_maker
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.history import StepRecord, step_record
from nsync_pipeline.training.optimizer import (
    LossScale,
    learning_rates,
    make_optimizer,
    optimizer_metric,
    take_step,
)
from nsync_pipeline.training.processes import ALONE, Processes, tensors_digest
from nsync_pipeline.training.state import TrainingState, WeightAverage
from nsync_pipeline.training.step_gradients import StepGradients
from nsync_pipeline.training.triplets import triplet_order

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training did; what it trained is in the family, as it is to be saved."""

    history: tuple[StepRecord, ...]  # a record a step
    held_out: dict[int, float]  # the held-out loss by steps done; empty without held-out pictures
    branches: str  # fused, in_turn, or single
    kept_step: int  # the steps after which the weights were those that are kept


def train(
    family: Family,
    trained: TrainedWeights,
    examples: EncodedSet,
    settings: TrainingConfig,
    seed: int,
    checkpoints: CheckpointFolder,
    held_out_loss: Callable[[], float] | None = None,
    on_step: Callable[[StepRecord], None] = lambda record: None,
    on_held_out: Callable[[int, float], None] = lambda step, loss: None,
    look: Callable[[int], float | None] | None = None,
    on_checkpoint: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> TrainingOutcome:
    """Train what was added to the family, from its newest checkpoint on where there is one.

    Args:
        family: holds what is trained.
        trained: its weights.
        examples: what it is trained on.
        settings: how.
        seed: the root of every random stream.
        checkpoints: where the training is kept on the way.
        held_out_loss: taken at the start, at every checkpoint and at the end.
        on_step: is given every step's record, those of before an interruption too.
        on_held_out: is given the steps done and the held-out loss there.
        look: is given the steps done before the first step, every ``watch.every`` steps and at the
            end; what it returns is the score of the weights there, higher being better. During
            both, the weights are those that would be saved (their average, where there is one).
        on_checkpoint: is called before the first step that is taken, and at every checkpoint.
        processes: share the samples of each step; all but the first compute only.

    Raises:
        TrainingError: a loss or a gradient is not finite, memory runs out, or it cannot be trained
            as asked.
    """
    _require_samples(settings, processes)
    processes.require_alike("the inputs", checkpoints.digest)
    is_first = processes.rank.is_first
    named = dict(zip(trained.names, trained.weights, strict=True))
    refiner = Refiner(named, settings.update_rule, settings.contrast)
    order = triplet_order(examples, settings, seed)
    state = TrainingState(
        trained,
        make_optimizer(trained, settings),
        refiner,
        _step_gradients(family, trained, examples, settings, seed, refiner, processes),
        None if settings.ema_decay is None else WeightAverage(trained.weights, settings.ema_decay),
    )

    def watch() -> None:
        done, at_end = state.steps, state.steps == settings.steps
        with state.to_save_in_place():
            due = at_end or done % settings.checkpoint_every == 0
            if held_out_loss is not None and is_first and due:
                state.held_out[done] = held_out_loss()
                on_held_out(done, state.held_out[done])
            every = settings.watch.every
            if look is not None and every > 0 and (at_end or done % every == 0):
                state.take_score(processes.from_first(look(done) if is_first else None))

    checkpoint = processes.from_first(checkpoints.latest() if is_first else None)
    if checkpoint is None:
        watch()
    else:
        logger.info("training goes on from step %d of %d", checkpoint.step, settings.steps)
        state.restore(checkpoint)
        for record in state.history:
            on_step(record)
        for done, loss in state.held_out.items():
            on_held_out(done, loss)
    if is_first:
        on_checkpoint()

    with _checkpointed_activations(family.denoiser, settings.gradient_checkpointing):
        for step in range(state.steps, settings.steps):
            triplets = order.triplets(step)
            found = state.gradients(step, triplets)
            refinement = refiner.of_branches(found.gradients, _metric(state, settings))
            gradient = _clipped(refinement, settings.max_gradient_norm)
            rates = learning_rates(settings, step)
            take_step(state.optimizer, trained.weights, gradient, rates)
            if state.average is not None:
                state.average.update(step + 1)

            record = step_record(
                step + 1,
                found.losses,
                refinement.diagnostics,
                rates["denoiser"],
                state.gradients.taken_at,
                state.gradients.overflows,
            )
            state.history.append(record)
            on_step(record)
            watch()
            if is_first and (
                state.steps % settings.checkpoint_every == 0 or state.steps == settings.steps
            ):
                checkpoints.write(state.checkpoint())
                on_checkpoint()

    kept = state.put_in_place(best=settings.keep == "best")
    processes.require_alike("the trained weights", tensors_digest(named))
    fused = state.gradients.branch_pass.plan.fused
    branches = ("fused" if fused else "in_turn") if len(refiner.branches) > 1 else "single"
    return TrainingOutcome(tuple(state.history), state.held_out, branches, kept)


def _step_gradients(
    family: Family,
    trained: TrainedWeights,
    examples: EncodedSet,
    settings: TrainingConfig,
    seed: int,
    refiner: Refiner,
    processes: Processes,
) -> StepGradients:
    modules = (family.denoiser, *family.text_encoders)
    branches = refiner.branches
    return StepGradients(
        family,
        trained.weights,
        branches,
        batch_maker(examples, family, settings, seed, trained.encode_prompts),
        BranchPass(
            modules, trained.weights, ADAPTER, branches, settings.branches, settings.batch_size
        ),
        processes,
        LossScale() if family.dtype == torch.float16 else None,
    )


def _metric(state: TrainingState, settings: TrainingConfig) -> tuple[Tensor, ...] | None:
    """The weights of the inner product that projections are taken in."""
    if settings.contrast.metric == "euclidean":
        return None
    return optimizer_metric(state.optimizer, state.trained.weights)


def _clipped(refinement: Refinement, largest: float | None) -> tuple[Tensor, ...]:
    """The refined gradient, so short that its norm is at most ``largest``."""
    norm = refinement.diagnostics.norm_refined
    if largest is None or norm <= largest:
        return refinement.gradient
    return tuple(torch._foreach_mul(refinement.gradient, largest / norm))


@contextmanager
def _checkpointed_activations(denoiser: nn.Module, wanted: bool) -> Iterator[None]:
    """Where ``wanted``: compute activations again on the way back instead of keeping them."""
    if not wanted:
        yield
        return
    model: Any = denoiser  # every denoiser here is a diffusers ModelMixin
    try:
        model.enable_gradient_checkpointing()
    except ValueError as error:
        raise TrainingError(f"training.gradient_checkpointing: set it to false: {error}") from error
    try:
        yield
    finally:
        model.disable_gradient_checkpointing()


def _require_samples(settings: TrainingConfig, processes: Processes) -> None:
    samples = settings.batch_size * settings.accumulation
    if samples < processes.rank.count:
        raise TrainingError(
            f"a step has {samples} samples (training.batch_size times training.accumulation), too "
            f"few for {processes.rank.count} processes: raise one of them, or use fewer processes"
        )
