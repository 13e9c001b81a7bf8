"""The training: batch, branch gradients, refinement, clip, step."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nsync_pipeline.adaptation.dropout import checkpoint_by_rows, dropout_rows
from nsync_pipeline.adaptation.lora import ADAPTER
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.branch_gradients import BranchPass
from nsync_pipeline.contrast.config import MIRRORED
from nsync_pipeline.contrast.refiner import Refinement, Refiner
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.placement import multiplies_bfloat16
from nsync_pipeline.training.batches import batch_maker
from nsync_pipeline.training.batches_ahead import BatchesAhead, makes_ahead
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.checkpoint_writer import CheckpointWriter
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
    save: Callable[[int], None] = lambda done: None,
    processes: Processes = ALONE,
    learning: Callable[[], AbstractContextManager[None]] = nullcontext,
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
        save: is given the steps done after each step of ``settings.save``; the weights are those
            of ``look``.
        on_checkpoint: is called before the first step that is taken, and at every checkpoint.
        processes: share the samples of each step; all but the first compute only.
        learning: is open while gradients are taken, and at no other time.

    Raises:
        TrainingError: a loss or a gradient is not finite, memory runs out, or it cannot be trained
            as asked.
    """
    samples, is_first = settings.batch_size * settings.accumulation, processes.rank.is_first
    if samples < processes.rank.count:
        raise TrainingError(
            f"a step has {samples} samples (training.batch_size times training.accumulation), too "
            f"few for {processes.rank.count} processes: raise one of them, or use fewer processes"
        )
    processes.require_alike("the inputs", checkpoints.digest)
    weights, modules = trained.weights, (family.denoiser, *family.text_encoders)
    named = dict(zip(trained.names, weights, strict=True))
    refiner = Refiner(named, settings.update_rule, settings.contrast)
    branches = refiner.branches
    order = triplet_order(examples, settings, seed)
    maker = batch_maker(examples, family, settings, seed, trained.encode_prompts)
    ahead = BatchesAhead(maker, family.device, is_on=makes_ahead(family.device))
    gradients = StepGradients(
        family,
        weights,
        branches,
        ahead,
        BranchPass(
            modules, weights, ADAPTER, branches, settings.branches, settings.batch_size,
            mirrored=frozenset(
                b for b in branches if b.is_negative and settings.update_rule in MIRRORED
            ),
        ),
        processes,
        LossScale() if family.dtype == torch.float16 else None,
        settings.update_rule,
        settings.contrast,
        multiplies_bfloat16(family.device) if settings.autocast == "auto" else settings.autocast,
    )  # fmt: skip
    average = None if settings.ema_decay is None else WeightAverage(weights, settings.ema_decay)
    optimizer = make_optimizer(trained, settings)
    state = TrainingState(trained, optimizer, refiner, gradients, average)

    saved = frozenset(settings.save.steps(settings.steps))

    def loss_due() -> bool:
        return state.steps == settings.steps or state.steps % settings.checkpoint_every == 0

    def watch() -> None:
        done, at_end = state.steps, state.steps == settings.steps
        with state.to_save_in_place():
            if held_out_loss is not None and is_first and loss_due():
                state.held_out[done] = held_out_loss()
                on_held_out(done, state.held_out[done])
            if is_first and done in saved:
                save(done)
            every = settings.watch.every
            if look is not None and every > 0 and (at_end or done % every == 0 or done in saved):
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

    with (
        checkpointed_activations(family, settings.gradient_checkpointing),
        CheckpointWriter(checkpoints, settings.checkpoint_minutes) as writer,
        ahead,
    ):
        for step in range(state.steps, settings.steps):
            writer.require_no_error()
            with learning():
                found = gradients(step, triplets := order.triplets(step))
                if ahead.is_on and step + 1 < settings.steps:
                    gradients.prepare(step + 1, order.triplets(step + 1))
                metric = None
                if settings.contrast.metric == "optimizer":
                    metric = optimizer_metric(optimizer, weights)
                refinement = refiner.of_branches(found.gradients, metric)
                # Known now: asked for before, a GPU would be waited for once more.
                gradients.require_finite(step, triplets, found, refinement.norms)
            gradient = _clipped(refinement, settings.max_gradient_norm)
            rates = learning_rates(settings, step)
            take_step(optimizer, weights, gradient, rates)
            if average is not None:
                average.update(step + 1)

            record = step_record(
                step + 1, found.losses, refinement.diagnostics, rates["denoiser"],
                gradients.taken_at, gradients.overflows,
            )  # fmt: skip
            state.history.append(record)
            on_step(record)
            watch()
            if is_first and (step + 1 == settings.steps or writer.is_due(loss_due())):
                writer.begin(state)
                on_checkpoint()

    kept = state.put_in_place(best=settings.keep == "best")
    processes.require_alike("the trained weights", tensors_digest(named))
    taken = "fused" if gradients.branch_pass.plan.fused else "in_turn"
    if len(branches) == 1:
        taken = "single"
    return TrainingOutcome(tuple(state.history), state.held_out, taken, kept)


def _clipped(refinement: Refinement, largest: float | None) -> tuple[Tensor, ...]:
    """The refined gradient, so short that its norm is at most ``largest``."""
    norm = refinement.diagnostics.norm_refined
    if largest is None or norm <= largest:
        return refinement.gradient
    return tuple(torch._foreach_mul(refinement.gradient, largest / norm))


@contextmanager
def checkpointed_activations(family: Family, wanted: bool) -> Iterator[None]:
    """Where ``wanted``: compute activations again on the way back instead of keeping them."""
    if not wanted:
        yield
        return
    model: Any = family.denoiser  # every denoiser here is a diffusers ModelMixin
    rows = dropout_rows(family)
    try:
        model.enable_gradient_checkpointing(None if rows is None else checkpoint_by_rows(rows))
    except ValueError as error:
        raise TrainingError(f"training.gradient_checkpointing: set it to false: {error}") from error
    try:
        yield
    finally:
        model.disable_gradient_checkpointing()
