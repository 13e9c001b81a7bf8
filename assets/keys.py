"""Names in the lineage graph: assets, the stages that make them, and what they depend on."""

from dagster import AssetKey

from nsync_pipeline.graph import STAGES, Stage

STAGE_OF = {
    "style_set": STAGES["style_set"],
    "captions": STAGES["captions"],
    "negative_set": STAGES["negative_set"],
    "lora": STAGES["training"],
    "samples": STAGES["generation"],
    "base_samples": STAGES["base_generation"],
    "evaluation": STAGES["evaluation"],
    "report": STAGES["report"],
}
"""The stage that makes each asset; in the order in which they can be made."""

ASSET_OF = {stage.name: asset for asset, stage in STAGE_OF.items()}

SOURCES = AssetKey("sources")
"""The users' own pictures, by style."""

CHOICES = AssetKey("choices")
"""What people chose on blind pages, by style."""


def settings_key(asset: str) -> AssetKey:
    """The part of ``params.yaml`` an asset depends on."""
    return AssetKey(["params", asset])


def upstream(stage: Stage) -> tuple[AssetKey, ...]:
    """What the asset of ``stage`` depends on."""
    settings = settings_key(ASSET_OF[stage.name])
    assets = [AssetKey(ASSET_OF[need]) for need in stage.needs]
    by_people = [key for key, read in read_by(stage).items() if read]
    return (*assets, *by_people, settings)


def read_by(stage: Stage) -> dict[AssetKey, bool]:
    """Whether ``stage`` reads each of the folders that people fill."""
    return {SOURCES: stage.reads_source, CHOICES: stage.reads_choices}
