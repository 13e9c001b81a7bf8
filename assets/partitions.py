"""Partitions: the styles and variants of ``params.yaml``. A reload shows what was edited there."""

from dagster import MultiPartitionKey, MultiPartitionsDefinition, StaticPartitionsDefinition

from assets.place import WORKSPACE
from nsync_pipeline.params import read_params

PARAMS = read_params(WORKSPACE.params_file)
STYLES = StaticPartitionsDefinition(list(PARAMS.styles))
VARIANTS = StaticPartitionsDefinition(list(PARAMS.variants))
STYLES_AND_VARIANTS = MultiPartitionsDefinition({"style": STYLES, "variant": VARIANTS})


def partition_key(style: str, variant: str | None) -> str:
    """The partition of one artefact."""
    return style if variant is None else MultiPartitionKey({"style": style, "variant": variant})


def style_and_variant(key: str) -> tuple[str, str | None]:
    """The other way round."""
    style, _, variant = key.partition("|")  # a multi-partition's parts, by name of the dimension
    return style, variant or None
