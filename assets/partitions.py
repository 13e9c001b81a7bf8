"""Partitions: styles, variants and training seeds of ``params.yaml``; a reload shows edits there.

A partition has two dimensions at most, so the second is a training of a variant, as ``lora-0``.
"""

from dagster import MultiPartitionKey, MultiPartitionsDefinition, StaticPartitionsDefinition

from assets.place import WORKSPACE
from nsync_pipeline.params import read_params
from nsync_pipeline.workspace import TrainingRun

PARAMS = read_params(WORKSPACE.params_file)
STYLES = StaticPartitionsDefinition(list(PARAMS.styles))
TRAININGS = StaticPartitionsDefinition([run.name for run in PARAMS.training_runs()])
STYLES_AND_TRAININGS = MultiPartitionsDefinition({"style": STYLES, "training": TRAININGS})


def partition_key(style: str, training: TrainingRun | None) -> str:
    """The partition of one artefact."""
    if training is None:
        return style
    return MultiPartitionKey({"style": style, "training": training.name})


def style_and_training(key: str) -> tuple[str, TrainingRun | None]:
    """The other way round."""
    style, _, training = key.partition("|")  # a multi-partition's parts, by name of the dimension
    if not training:
        return style, None
    variant, _, seed = training.rpartition("-")
    return style, TrainingRun(variant, int(seed))
