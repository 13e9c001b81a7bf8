"""The lineage graph says what the table of stages says, and nothing else."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from dagster import AssetKey, Definitions, FreshnessPolicy, PartitionsDefinition

from assets import lineage
from assets.definitions import definitions
from assets.jobs import ABLATION_JOBS, JOBS
from assets.lineage import ABLATION, PEOPLE_S, asset_key
from assets.partitions import (
    ABLATION as ABLATION_PARTITIONS,
)
from assets.partitions import STYLES, STYLES_AND_TRAININGS, artefact_of, partition_key
from nsync_pipeline.graph.artefacts import Artefact
from nsync_pipeline.graph.table import STAGES, Stage
from nsync_pipeline.params import DagsterConfig

DEFS, ALL = definitions(DagsterConfig()), definitions(DagsterConfig(ablation=True))
GRAPH = ALL.resolve_asset_graph()
OWN = [stage for stage in STAGES.values() if not stage.shared]
BOTH = [(stage, False) for stage in STAGES.values()] + [(stage, True) for stage in OWN]
FOLDER = Path(lineage.__file__).parent
PRIVATE = re.compile(r"(from|import) dagster[\w.]*\._|from dagster[\w.]* import _")


EAGER = DagsterConfig(automation="eager", fresh_within_hours=48, night="0 1 * * *", ablation=True)


@pytest.mark.parametrize("settings", [DagsterConfig(), EAGER], ids=["default", "all on"])
def test_definitions_can_be_loaded(settings: DagsterConfig) -> None:
    Definitions.validate_loadable(definitions(settings))


def test_automation_and_freshness_are_as_the_settings_ask() -> None:
    eager = definitions(EAGER)
    for of, automated, hours in ((DEFS, False, None), (eager, True, 48)):
        node = of.resolve_asset_graph().get(AssetKey("lora"))
        assert (node.automation_condition is not None) is automated
        wanted = FreshnessPolicy.time_window(timedelta(hours=hours)) if hours else None
        assert node.freshness_policy == wanted
        sensors = {sensor.name for sensor in of.get_repository_def().sensor_defs}
        assert ("automation" in sensors) is automated
    schedules = [eager.resolve_schedule_def(f"night_{job.name}") for job in JOBS]
    assert {schedule.cron_schedule for schedule in schedules} == {"0 1 * * *"}


def test_materialize_all_takes_no_ablation_unless_that_is_asked_for() -> None:
    shown = DEFS.resolve_asset_graph()
    assert set(shown.get_all_asset_keys()) == set(GRAPH.get_all_asset_keys())
    made = {key for key in shown.get_all_asset_keys() if shown.get(key).is_materializable}
    assert made == {AssetKey(stage.asset) for stage in STAGES.values()}


def test_page_shows_sources_the_artefacts_choices_and_nothing_else() -> None:
    assert set(GRAPH.get_all_asset_keys()) == {
        AssetKey("sources"),
        AssetKey("captions_by_hand"),
        AssetKey("choices"),
        *(AssetKey(stage.asset) for stage in STAGES.values()),
        *(AssetKey([ABLATION, stage.asset]) for stage in OWN),
    }


@pytest.mark.parametrize(("stage", "of_ablation"), BOTH, ids=lambda value: str(
    value.name if isinstance(value, Stage) else value))  # fmt: skip
def test_asset_is_what_the_row_of_its_stage_says(stage: Stage, of_ablation: bool) -> None:
    node = GRAPH.get(asset_key(stage, of_ablation))

    assert node.parent_keys == {
        *(asset_key(STAGES[need], of_ablation) for need in stage.needs),
        *(PEOPLE_S[folder] for folder in stage.reads),
    }
    partitions: PartitionsDefinition = STYLES
    if stage.per_training:
        partitions = ABLATION_PARTITIONS if of_ablation else STYLES_AND_TRAININGS
    assert node.partitions_def == partitions
    assert node.group_name == (ABLATION if of_ablation else stage.group)
    assert node.pools == ({"gpu"} if stage.on_device else set())
    assert node.code_version == str(stage.recipe)
    assert node.description == stage.says
    assert node.kinds == {"dvc", *stage.kinds}
    assert node.owners


@pytest.mark.parametrize("key", PEOPLE_S.values(), ids=str)
def test_what_people_fill_is_not_made_here(key: AssetKey) -> None:
    assert not GRAPH.get(key).is_materializable
    assert GRAPH.get(key).partitions_def == STYLES
    assert GRAPH.get(key).description


def test_every_asset_is_made_by_one_job_after_what_it_needs() -> None:
    jobs = [*JOBS, *ABLATION_JOBS]
    keys = [ALL.resolve_job_def(job.name).asset_layer.selected_asset_keys for job in jobs]
    made = [key for of_job in keys for key in of_job]
    assert sorted(made) == sorted({asset_key(stage, ablation) for stage, ablation in BOTH})
    for position, of_job in enumerate(keys):
        earlier = {key for earlier in keys[: position + 1] for key in earlier}
        for key in of_job:
            assert GRAPH.get(key).parent_keys <= earlier | set(PEOPLE_S.values())


def test_artefact_is_found_by_its_partition() -> None:
    for artefact in (
        Artefact(STAGES["captions"], "ink"),
        Artefact(STAGES["training"], "ink", "nsync_every_4", 12),
        Artefact(STAGES["training"], "ink", "update_rule_none", 0, of_ablation=True),
    ):
        key = partition_key(artefact)
        assert artefact_of(artefact.stage.name, key, artefact.of_ablation) == artefact


def test_only_what_is_amiss_in_an_artefact_blocks() -> None:
    blocking = {key for key in GRAPH.asset_check_keys if GRAPH.get_check_spec(key).blocking}
    assert {key.name for key in blocking} == {
        "decodable", "no_test_picture_in_train", "negatives_paired", "losses_finite"
    }  # fmt: skip
    assert {key.name for key in GRAPH.asset_check_keys - blocking} == {
        "up_to_date", "without_warnings"
    }  # fmt: skip
    checked = {key.asset_key for key in GRAPH.asset_check_keys if key.name == "up_to_date"}
    assert checked == {asset_key(stage, ablation) for stage, ablation in BOTH}


def test_nothing_private_of_dagster_is_used() -> None:
    assert PRIVATE.search("from dagster._core.x import y")
    found = [
        f"{path.name}: {line}"
        for path in FOLDER.glob("*.py")
        for line in path.read_text().splitlines()
        if PRIVATE.search(line)
    ]
    assert found == []
