"""The lineage graph says what the table of stages says."""

import json
from pathlib import Path

import pytest
from assets.artefact import Artefact, all_artefacts
from assets.keys import STAGE_OF, upstream
from assets.lock_file import read_lock, stage_name
from assets.place import WORKSPACE
from assets.whole_style import parts_of
from dagster import AssetCheckSeverity, AssetKey, Definitions

from assets.checks import warned
from assets.definitions import defs
from assets.lineage import ASSETS
from assets.partitions import PARAMS, STYLES, STYLES_AND_TRAININGS, style_and_training
from nsync_pipeline.graph import STAGES


def test_definitions_can_be_loaded() -> None:
    Definitions.validate_loadable(defs)


def test_every_stage_has_its_asset() -> None:
    assert {asset.key for asset in ASSETS} == {AssetKey(name) for name in STAGE_OF}
    assert list(STAGES.values()) == sorted(STAGE_OF.values(), key=list(STAGES.values()).index)


@pytest.mark.parametrize("name", STAGE_OF)
def test_asset_depends_on_what_its_stage_reads(name: str) -> None:
    node = defs.resolve_asset_graph().get(AssetKey(name))
    assert node.parent_keys == set(upstream(STAGE_OF[name]))
    partitions = STYLES_AND_TRAININGS if STAGE_OF[name].per_training else STYLES
    assert node.partitions_def == partitions
    assert node.description
    assert node.owners
    assert "dvc" in node.kinds
    assert node.code_version
    assert node.pools == ({"gpu"} if STAGE_OF[name].uses_accelerator else set())


def test_every_check_blocks_but_the_one_that_warns() -> None:
    graph = defs.resolve_asset_graph()
    names = {key.name for key in graph.asset_check_keys}
    assert names >= {
        "style_set_decodable", "no_test_picture_in_train", "negatives_paired", "losses_finite"
    }  # fmt: skip
    open_ones = {
        key.name for key in graph.asset_check_keys if not graph.get_check_spec(key).blocking
    }
    assert open_ones == {"training_without_warnings"}


def test_warnings_of_a_training_are_told_as_warnings(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    found = {"kind": "collapse", "step": 12, "text": "95% was removed."}
    file.write_text(json.dumps({"warnings": [found]}))
    result = warned(file)
    assert (result.passed, result.severity) == (False, AssetCheckSeverity.WARN)
    assert result.description == "Step 12: 95% was removed."
    assert result.metadata["collapse"].value == 12
    file.write_text(json.dumps({"warnings": []}))
    assert warned(file).passed


def test_partition_names_its_style_and_training() -> None:
    style, training = next(iter(PARAMS.styles)), PARAMS.training_runs()[0]
    artefact = Artefact("lora", style, training)
    assert artefact.partition in set(STYLES_AND_TRAININGS.get_partition_keys())
    assert style_and_training(artefact.partition) == (style, training)
    assert style_and_training(style) == (style, None)
    assert artefact.dvc_stage == stage_name("training", style, training)


def test_runs_of_a_style_make_every_artefact_once_each_after_what_it_needs() -> None:
    style = next(iter(PARAMS.styles))
    made = [artefact for part in parts_of(style) for artefact in part.artefacts()]
    assert sorted(map(str, made)) == sorted(map(str, all_artefacts(style)))
    for position, artefact in enumerate(made):
        for need in artefact.stage.needs:
            makers = [m for m in made if m.stage.name == need]
            wanted = [m for m in makers if m.training == artefact.training or not artefact.training]
            assert all(made.index(m) < position for m in wanted if m.training or need)


def test_jobs_select_what_their_runs_materialize() -> None:
    for part in parts_of(next(iter(PARAMS.styles))):
        job = defs.resolve_job_def(part.job)
        assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {
            *part.assets
        }


def test_no_lock_is_no_artefact() -> None:
    assert read_lock(WORKSPACE.root / "no such file") == {}
