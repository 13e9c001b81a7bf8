"""Differential LoRA: one learns the negatives and is frozen, the one that is kept learns on top."""

from collections.abc import Callable

from nsync_pipeline.adaptation.beneath import lay_beneath
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.seeding import stream_seed, torch_stream
from nsync_pipeline.training.checkpoint import CheckpointFolder
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet
from nsync_pipeline.training.history import StepRecord
from nsync_pipeline.training.loop import TrainingOutcome, train
from nsync_pipeline.training.processes import ALONE, Processes

FIRST_START = "lora beneath"
"""The stream that the first LoRA's start is drawn from; the second has that of other variants."""


def learn_beneath(
    family: Family,
    trained: TrainedWeights,
    examples: EncodedSet,
    settings: TrainingConfig,
    seed: int,
    checkpoints: CheckpointFolder,
    on_step: Callable[[StepRecord], None] = lambda record: None,
    processes: Processes = ALONE,
) -> TrainingOutcome:
    """Train the family's LoRA on the negatives as plain LoRA, freeze it, start again on top of it.

    Afterwards ``trained`` are at the start that plain LoRA has, and what was learned acts while
    ``adaptation.beneath.in_use`` is open.

    Args:
        family: holds a fresh LoRA, drawn from the stream ``FIRST_START``.
        trained: its weights.
        examples: with their negatives.
        settings: as for the second LoRA: it takes as many steps.
        seed: of the training.
        checkpoints: a folder of its own.
        on_step: is given every step's record.
        processes: as in ``train``.

    Raises:
        TrainingError: as ``train``.
    """
    assert settings.lora is not None, "its settings require it"
    plain = {"update_rule": "none", "contrast": ContrastConfig(), "keep": "last"}
    outcome = train(
        family, trained, examples.of_negatives(), settings.model_copy(update=plain),
        stream_seed(seed, "beneath"), checkpoints, on_step=on_step, processes=processes,
    )  # fmt: skip
    lay_beneath(family, settings.lora, torch_stream(seed, "lora"))
    return outcome
