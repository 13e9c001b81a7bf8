"""The lineage graph: from a style's pictures to its LoRAs and their report.

Each asset has DVC run one stage of the engine; figures and previews are what the stage said.
"""

from typing import Any

from dagster import AssetExecutionContext, MaterializeResult, asset

from assets.keys import CHOICES, SOURCES, settings_key
from assets.partitions import STYLES, STYLES_AND_TRAININGS
from assets.present import code_version
from assets.stage_run import run_in_dvc
from nsync_pipeline.graph import STAGES

OWNERS = ["team:nsync"]
GPU = "gpu"
"""The pool of assets that use the accelerator; its limit is in the instance's dagster.yaml."""


@asset(
    deps=[SOURCES, settings_key("style_set")],
    partitions_def=STYLES,
    group_name="pictures",
    kinds={"dvc", "parquet"},
    owners=OWNERS,
    code_version=code_version(STAGES["style_set"]),
)
def style_set(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """The pictures of a style: validated, normalised, without duplicates, split by content."""
    return run_in_dvc(context, "style_set")


@asset(
    deps=[style_set, settings_key("captions")],
    partitions_def=STYLES,
    group_name="pictures",
    kinds={"dvc", "parquet", "huggingface"},
    owners=OWNERS,
    code_version=code_version(STAGES["captions"]),
    pool=GPU,
)
def captions(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """What each picture shows, in words that say nothing of its style."""
    return run_in_dvc(context, "captions")


@asset(
    deps=[style_set, captions, settings_key("negative_set")],
    partitions_def=STYLES,
    group_name="pictures",
    kinds={"dvc", "parquet", "diffusers"},
    owners=OWNERS,
    code_version=code_version(STAGES["negative_set"]),
    pool=GPU,
)
def negative_set(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """Negative synthetic images: the same content as the frozen base draws it, styleless."""
    return run_in_dvc(context, "negative_set")


@asset(
    deps=[style_set, captions, negative_set, settings_key("lora")],
    partitions_def=STYLES_AND_TRAININGS,
    group_name="models",
    kinds={"dvc", "pytorch", "safetensors"},
    owners=OWNERS,
    code_version=code_version(STAGES["training"]),
    pool=GPU,
)
def lora(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """The style as a LoRA, trained with the update rule of its variant from its training seed."""
    return run_in_dvc(context, "lora")


@asset(
    deps=[style_set, captions, lora, settings_key("samples")],
    partitions_def=STYLES_AND_TRAININGS,
    group_name="pictures_drawn",
    kinds={"dvc", "parquet", "diffusers"},
    owners=OWNERS,
    code_version=code_version(STAGES["generation"]),
    pool=GPU,
)
def samples(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """The captions held out of training, drawn with the LoRA from fixed seeds."""
    return run_in_dvc(context, "samples")


@asset(
    deps=[style_set, captions, settings_key("base_samples")],
    partitions_def=STYLES,
    group_name="pictures_drawn",
    kinds={"dvc", "parquet", "diffusers"},
    owners=OWNERS,
    code_version=code_version(STAGES["base_generation"]),
    pool=GPU,
)
def base_samples(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """The same captions from the same seeds, drawn by the untrained base."""
    return run_in_dvc(context, "base_samples")


@asset(
    deps=[
        style_set, captions, negative_set, base_samples, samples, settings_key("evaluation"),
    ],
    partitions_def=STYLES,
    group_name="results",
    kinds={"dvc", "json"},
    owners=OWNERS,
    code_version=code_version(STAGES["evaluation"]),
    pool=GPU,
)  # fmt: skip
def evaluation(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """How near each variant comes to the style, what it keeps of the content, what it copies."""
    return run_in_dvc(context, "evaluation")


@asset(
    deps=[
        style_set, captions, negative_set, lora, base_samples, samples, evaluation, CHOICES,
        settings_key("report"),
    ],
    partitions_def=STYLES,
    group_name="results",
    kinds={"dvc", "html"},
    owners=OWNERS,
    code_version=code_version(STAGES["report"]),
)  # fmt: skip
def report(context: AssetExecutionContext) -> MaterializeResult[Any]:
    """One page a style: pictures side by side, figures, what people chose, where all came from."""
    return run_in_dvc(context, "report")


ASSETS = [style_set, captions, negative_set, lora, samples, base_samples, evaluation, report]
