"""Jobs: the parts of a style's graph that are partitioned alike, so that one run can make each.

To make a style whole from the page, select its assets and materialize them: Dagster's backfill
makes them part by part. Or turn on the sensor ``keep_up_to_date``.
"""

from dagster import AssetSelection, define_asset_job

from nsync_pipeline.graph.table import STAGES, Stage

from .lineage import asset_key

PREPARE, LEARN, ASSESS = "prepare", "learn", "assess"


def part_of(stage: Stage) -> str:
    """The job that makes the artefacts of ``stage``."""
    if stage.per_training:
        return LEARN
    return PREPARE if stage.shared else ASSESS


def _assets(part: str, of_ablation: bool = False) -> AssetSelection:
    keys = (asset_key(stage, of_ablation) for stage in STAGES.values() if part_of(stage) == part)
    return AssetSelection.assets(*keys)


prepare = define_asset_job(
    PREPARE, _assets(PREPARE),
    description="The pictures of a style, their captions, and what the base draws of them.",
)  # fmt: skip
learn = define_asset_job(
    LEARN, _assets(LEARN),
    description="The LoRA of one training of a variant, and what is drawn with it.",
)  # fmt: skip
assess = define_asset_job(
    ASSESS, _assets(ASSESS),
    description="The evaluation of all variants of a style, and its report.",
)  # fmt: skip
ablation_learn = define_asset_job(
    f"ablation_{LEARN}", _assets(LEARN, of_ablation=True),
    description="One training of a variant of the section `ablation`, and what it draws.",
)  # fmt: skip
ablation_assess = define_asset_job(
    f"ablation_{ASSESS}", _assets(ASSESS, of_ablation=True),
    description="The comparison of all variants of the section `ablation`, and its report.",
)  # fmt: skip
JOBS = [prepare, learn, assess]
ABLATION_JOBS = [ablation_learn, ablation_assess]
