"""Jobs: the parts of a style's graph that are partitioned alike, so that one run can make each.

To make a style whole from the page, select its assets and materialize them: Dagster's backfill
makes them part by part. Or turn on the sensor ``keep_up_to_date``.
"""

from dagster import AssetSelection, define_asset_job

from nsync_pipeline.graph.table import STAGES, Stage

from .lineage import asset_key

PREPARE, DRAW_BASE, LEARN, DRAW, ASSESS = "prepare", "draw_base", "learn", "draw", "assess"
APART = {"base_generation": DRAW_BASE, "generation": DRAW}
"""What only the evaluation waits for: beside it the next negatives and trainings can be made."""


def part_of(stage: Stage) -> str:
    """The job that makes the artefacts of ``stage``."""
    if stage.name in APART:
        return APART[stage.name]
    if stage.per_training:
        return LEARN
    return PREPARE if stage.shared else ASSESS


def _assets(part: str, of_ablation: bool = False) -> AssetSelection:
    keys = (asset_key(stage, of_ablation) for stage in STAGES.values() if part_of(stage) == part)
    return AssetSelection.assets(*keys)


SAYS = {
    PREPARE: "The pictures of a style, their captions, and their negatives.",
    DRAW_BASE: "What the base alone draws of the captions that are held out.",
    LEARN: "The LoRA of one training of a variant.",
    DRAW: "What is drawn with one training of a variant.",
    ASSESS: "The evaluation of all variants of a style, and its report.",
}
ABLATION_SAYS = {
    LEARN: "One training of a variant of the section `ablation`.",
    DRAW: "What is drawn with one training of a variant of the section `ablation`.",
    ASSESS: "The comparison of all variants of the section `ablation`, and its report.",
}
JOBS = [define_asset_job(part, _assets(part), description=says) for part, says in SAYS.items()]
ABLATION_JOBS = [
    define_asset_job(f"ablation_{part}", _assets(part, of_ablation=True), description=says)
    for part, says in ABLATION_SAYS.items()
]
