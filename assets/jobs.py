"""Jobs: the three parts of a style's graph, all of it in one, and the ablation beside it."""

from dagster import (
    AssetSelection,
    OpExecutionContext,
    define_asset_job,
    job,
    op,
)

from assets.partitions import STYLES, STYLES_AND_TRAININGS
from assets.whole_style import materialize_style

prepare = define_asset_job(
    "prepare",
    AssetSelection.assets("style_set", "captions", "negative_set", "base_samples"),
    description="The pictures of a style, their captions, and what the base draws of them.",
    partitions_def=STYLES,
)

learn = define_asset_job(
    "learn",
    AssetSelection.assets("lora", "samples"),
    description="The LoRA of one training of a variant, and what is drawn with it.",
    partitions_def=STYLES_AND_TRAININGS,
)

assess = define_asset_job(
    "assess",
    AssetSelection.assets("evaluation", "report"),
    description="The evaluation of all variants of a style, and its report.",
    partitions_def=STYLES,
)

ablate = define_asset_job(
    "ablate",
    AssetSelection.assets("ablation"),
    description="The settings of the section `ablation`, trained on a style and compared.",
    partitions_def=STYLES,
)


@op
def materialize_out_of_date(context: OpExecutionContext) -> None:
    """Run `prepare`, then `learn` for each training, then `assess`: what is fresh is left out."""
    materialize_style(
        context.repository_def.get_job, context.instance, context.partition_key, context.log.info
    )


@job(partitions_def=STYLES, description="A style whole, from its pictures to its report.")
def whole_style() -> None:
    """A run cannot mix partitions by style with those by training, so this one starts others."""
    materialize_out_of_date()
