"""Partitions: the styles of ``params.yaml``, and the trainings of their variants.

They are dynamic: the sensor ``workspace`` adds and removes them as ``params.yaml`` changes, so the
code location need not be loaded again. A partition has two dimensions at most, so the second is a
training of a variant, as ``nsync-0``.
"""

from dagster import DynamicPartitionsDefinition, MultiPartitionKey, MultiPartitionsDefinition

from nsync_pipeline.graph.artefacts import Artefact
from nsync_pipeline.graph.table import STAGES

STYLES = DynamicPartitionsDefinition(name="style")
TRAININGS = DynamicPartitionsDefinition(name="training")
ABLATION_TRAININGS = DynamicPartitionsDefinition(name="ablation_training")
STYLES_AND_TRAININGS = MultiPartitionsDefinition({"style": STYLES, "training": TRAININGS})
ABLATION = MultiPartitionsDefinition({"style": STYLES, "training": ABLATION_TRAININGS})

AnyPartitions = DynamicPartitionsDefinition | MultiPartitionsDefinition


def partitions_of(per_training: bool, of_ablation: bool) -> AnyPartitions:
    """What the artefacts of a stage are partitioned by."""
    if not per_training:
        return STYLES
    return ABLATION if of_ablation else STYLES_AND_TRAININGS


def partition_key(artefact: Artefact) -> str:
    """The partition of one artefact."""
    if artefact.training is None:
        return artefact.style
    return MultiPartitionKey({"style": artefact.style, "training": artefact.training})


def artefact_of(stage: str, key: str, of_ablation: bool) -> Artefact:
    """The other way round."""
    style, _, training = key.partition("|")  # a multi-partition's parts, by name of the dimension
    if not training:
        return Artefact(STAGES[stage], style, of_ablation=of_ablation)
    variant, _, seed = training.rpartition("-")
    return Artefact(STAGES[stage], style, variant, int(seed), of_ablation)
