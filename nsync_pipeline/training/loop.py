"""The training: batch, branch gradients, refinement, clip, step."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nsync_pipeline.adaptation.lora import ADAPTER
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.branch_pass import BranchPass
from nsync_pipeline.contrast.refinement import Diagnostics
from nsync_pipeline.contrast.refiner import Refiner
from nsync_pipeline.contrast.rules import Branch
from nsync_pipeline.errors import TrainingError
from nsync_pipeline.families.family import Family
from nsync_pipeline.training.batches import BatchMaker, branch_losses
from nsync_pipeline.training.checkpoint import Checkpoint, CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.history import StepRecord, step_record
from nsync_pipeline.training.learning_rate import learning_rate
from nsync_pipeline.training.optimizer import adamw, restore, state_tensors, take_step
from nsync_pipeline.training.triplets import Triplet, TripletOrder

logger = logging.getLogger(__name__)

LOSS_SCALE_FLOAT16 = 2.0**12
"""A loss is multiplied by it, and its gradient divided, where the frozen weights are float16."""

COLLAPSED = 0.95
"""Share of ``|g+|`` removed above which little is left to learn from."""


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training did; the LoRA itself is in the denoiser."""

    history: tuple[StepRecord, ...]  # a record a step
    held_out: dict[int, float]  # the held-out loss by steps done; empty without held-out pictures
    branches: str  # fused, in_turn, or single


def train(
    family: Family,
    lora: TrainedWeights,
    examples: EncodedSet,
    settings: TrainingConfig,
    seed: int,
    checkpoints: CheckpointFolder,
    held_out_loss: Callable[[], float] | None = None,
    on_step: Callable[[StepRecord], None] = lambda record: None,
    on_held_out: Callable[[int, float], None] = lambda step, loss: None,
) -> TrainingOutcome:
    """Train the LoRA in the family's denoiser, from its newest checkpoint on where there is one.

    ``on_step`` is given every step's record, those of before an interruption too; ``on_held_out``
    the steps done and the held-out loss there, at the start, at every checkpoint and at the end.

    Raises:
        TrainingError: a loss or a gradient is not finite, or the LoRA cannot be trained as asked.
    """
    weights = lora.weights
    shapes = [weight.shape for weight in weights]
    refiner = Refiner(settings.update_rule, settings.contrast, lora.names, shapes)
    branches = refiner.branches
    mode = settings.branches if len(branches) > 1 else "in_turn"
    loss_scale = LOSS_SCALE_FLOAT16 if family.dtype == torch.float16 else 1.0
    branch_pass = BranchPass(
        (family.denoiser, *family.text_encoders), weights, ADAPTER, mode, loss_scale
    )
    optimizer = adamw(weights, settings)
    order = TripletOrder(
        seed,
        examples.ids,
        examples.negative_counts,
        settings.batch_size * settings.accumulation,
        settings.caption_dropout,
    )
    maker = BatchMaker(examples, family.noise_schedule, seed, settings.shared_noise)
    history: list[StepRecord] = []
    held_out: dict[int, float] = {}

    def take_held_out(done: int) -> None:
        if held_out_loss is not None and done not in held_out:
            held_out[done] = held_out_loss()
            on_held_out(done, held_out[done])

    checkpoint = checkpoints.latest()
    if checkpoint is not None:
        logger.info("training goes on from step %d of %d", checkpoint.step, settings.steps)
        restore(optimizer, weights, checkpoint.tensors, checkpoint.step)
        history.extend(checkpoint.history)
        held_out.update(checkpoint.held_out)
        if checkpoint.in_turn:
            branch_pass.in_turn_from_now_on()
        for record in history:
            on_step(record)
        for done, loss in held_out.items():
            on_held_out(done, loss)
    take_held_out(0)

    for step in range(len(history), settings.steps):
        triplets = order.triplets(step)
        micro_batches = [
            branch_losses(family, {b: maker.batch(b, step, part) for b in branches})
            for part in _micro_batches(triplets, settings.batch_size)
        ]
        found = branch_pass(branches, micro_batches)
        refinement = refiner(found.gradients)
        rate = learning_rate(settings, step)
        record = step_record(step + 1, found.losses, refinement.diagnostics, rate)
        _require_finite(record, branches, triplets, examples)
        scale = _clip_scale(refinement.diagnostics, settings.max_gradient_norm)
        clipped = refinement.gradient
        if scale < 1.0:
            clipped = tuple(torch._foreach_mul(clipped, scale))
        take_step(optimizer, weights, clipped, rate)
        history.append(record)
        _warn_of_collapse(history)
        on_step(record)
        done = step + 1
        if done % settings.checkpoint_every == 0 or done == settings.steps:
            take_held_out(done)
            checkpoints.write(
                Checkpoint(
                    step=done,
                    tensors=state_tensors(optimizer, weights),
                    history=tuple(history),
                    held_out=held_out,
                    in_turn=mode != "in_turn" and not branch_pass.fused,
                )
            )
    taken = "fused" if branch_pass.fused else "in_turn"
    return TrainingOutcome(tuple(history), held_out, taken if len(branches) > 1 else "single")


def _micro_batches(triplets: Sequence[Triplet], size: int) -> list[Sequence[Triplet]]:
    return [triplets[start : start + size] for start in range(0, len(triplets), size)]


def _clip_scale(diagnostics: Diagnostics, largest: float | None) -> float:
    """What to multiply the refined gradient by, so that its norm is at most ``largest``."""
    if largest is None or diagnostics.norm_refined <= largest:
        return 1.0
    return largest / diagnostics.norm_refined


def _require_finite(
    record: StepRecord,
    branches: Sequence[Branch],
    triplets: Sequence[Triplet],
    examples: EncodedSet,
) -> None:
    """Raise ``TrainingError`` where a loss or a gradient is not a finite number."""
    figures = record.figures()
    for branch in branches:
        for kind, name in (("loss", f"loss_{branch}"), ("gradient", f"norm_{branch}")):
            if not math.isfinite(figures[name]):
                places = [t.anchor if branch == "anchor" else t.positive for t in triplets]
                pictures = ", ".join(sorted({examples.ids[place] for place in places}))
                raise TrainingError(
                    f"step {record.step}: the {kind} of the {branch} branch is not finite "
                    f"(pictures {pictures}). Lower training.learning_rate, or look at these "
                    "pictures; with base_model.dtype float16, try bfloat16 or float32."
                )


def _warn_of_collapse(history: Sequence[StepRecord]) -> None:
    """Say it once, when it first happens."""
    record = history[-1]
    if record.share_removed <= COLLAPSED or any(
        earlier.share_removed > COLLAPSED for earlier in history[:-1]
    ):
        return
    logger.warning(
        "step %d: %.0f %% of the positive gradient was removed: to this model, positives and "
        "negatives ask for almost the same change (or its opposite), and little is left to learn",
        record.step,
        100 * record.share_removed,
    )
