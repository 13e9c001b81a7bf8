"""Each check catches what it should."""

import csv
import json
from collections.abc import Callable

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetKey,
    AssetSelection,
    DagsterInstance,
    Definitions,
    define_asset_job,
)

from assets import checks
from assets.checks import Check
from assets.lineage import external_assets, stage_assets
from assets.sensors import Known, follow_partitions, report_news
from nsync_pipeline.graph.artefacts import Artefact, Graph
from nsync_pipeline.params import DagsterConfig
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, STYLE_SET, read_manifest, write_manifest
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace

Make = Callable[..., list[str]]
Found = Callable[..., AssetCheckResult]


@pytest.fixture
def found(place: Workspace, make: Make) -> Found:
    make()

    def look(check: Check, stage: str, variant: str | None = None) -> AssetCheckResult:
        graph = Graph.read(place)
        return check(graph, graph.artefact(stage, "ink", variant))

    return look


def whole(result: AssetCheckResult) -> bool:
    return bool(result.passed)


def test_whole_artefacts_pass(found: Found) -> None:
    for stage, of_stage in {**checks.BLOCKING, **checks.WARNING}.items():
        variant = "nsync" if stage in ("training", "generation") else None
        assert all(whole(found(check, stage, variant)) for check in of_stage), stage


@pytest.mark.parametrize(("stage", "variant"), [
    ("style_set", None), ("negative_set", None), ("base_generation", None), ("generation", "nsync"),
])  # fmt: skip
def test_picture_that_cannot_be_decoded_is_caught(
    found: Found, place: Workspace, stage: str, variant: str | None
) -> None:
    artefact: Artefact = Graph.read(place).artefact(stage, "ink", variant)
    (place.root / artefact.path / "images" / "aa.png").write_bytes(b"nothing")
    result = found(checks.decodable, stage, variant)
    assert not whole(result)
    assert result.severity is AssetCheckSeverity.ERROR
    assert "images/aa.png" in str(result.metadata["first"].value)


def edit_rows(place: Workspace, stage: str, **change: object) -> None:
    """Change the first row of a manifest; of the negatives with ``keep=0``, there are none then."""
    schema = {"style_set": STYLE_SET, "negative_set": NEGATIVE_SET}[stage]
    file = place.root / "data" / "ink" / stage / MANIFEST_FILE
    rows = read_manifest(file, schema)
    file.unlink()
    write_manifest(file, [{**rows[0], **change}, *rows[1:]], schema)


def test_picture_of_another_size_is_caught(found: Found, place: Workspace) -> None:
    edit_rows(place, "style_set", width=9)
    assert "aa.png: (8, 8)" in str(found(checks.decodable, "style_set").metadata["first"].value)


@pytest.mark.parametrize(("change", "says"), [
    ({"sha256": "bb"}, "bb"), ({"split": "test"}, "no picture in train"),
])  # fmt: skip
def test_test_picture_in_train_is_caught(
    found: Found, place: Workspace, change: dict[str, str], says: str
) -> None:
    edit_rows(place, "style_set", **change)
    result = found(checks.no_test_picture_in_train, "style_set")
    assert not whole(result)
    assert says in str(result.metadata["first"].value)


def test_negative_of_no_picture_is_caught(found: Found, place: Workspace) -> None:
    edit_rows(place, "negative_set", positive_id="cc")
    result = found(checks.negatives_paired, "negative_set")
    assert (whole(result), result.metadata["first"].value) == (False, "aa 0, cc 0")


@pytest.mark.parametrize(("value", "says"), [
    ("nan", "step 3: loss_positive is nan"), ("", ""), (None, "the history is empty"),
])  # fmt: skip
def test_loss_that_is_no_number_is_caught(
    found: Found, place: Workspace, value: str | None, says: str
) -> None:
    with (place.model("ink", "nsync", 0) / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "loss_positive"])
        if value is not None:
            rows.writerow([3, value])
    result = found(checks.losses_finite, "training", "nsync")
    assert (whole(result), result.metadata["first"].value) == (not says, says)


def test_check_that_is_pressed_without_a_partition_looks_at_all_and_names_the_wrong_one(
    place: Workspace, make: Make
) -> None:
    make()
    instance = DagsterInstance.ephemeral()
    graph = Graph.read(place)
    follow_partitions(instance, graph)
    report_news(instance, graph, Known())
    (place.samples("ink", "nsync", 0) / "images" / "aa.png").write_bytes(b"nothing")
    (job,) = [one for one in checks.CHECKS if one.check_key.asset_key == AssetKey("samples")
              and one.check_key.name == "decodable"]  # fmt: skip
    (result,) = materialize_checks(job, instance)
    assert not result.passed
    assert result.description is not None
    assert result.description.startswith("ink|nsync-0: images/aa.png")
    shown = [record.data for record in result.metadata["partitions"].value.records]  # type: ignore[union-attr]
    assert shown == [
        {"partition": "ink|lora-0", "passed": True}, {"partition": "ink|nsync-0", "passed": False}
    ]  # fmt: skip


def materialize_checks(
    check: AssetChecksDefinition, instance: DagsterInstance
) -> list[AssetCheckEvaluation]:
    """What is launched by the page's button."""
    defs = Definitions(
        assets=[*external_assets(), *stage_assets(DagsterConfig())],
        asset_checks=[check],
        jobs=[define_asset_job("pressed", AssetSelection.checks(check))],
    )
    job = defs.resolve_job_def("pressed")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    return list(result.get_asset_check_evaluations())


def test_warnings_of_a_training_are_told_as_warnings(found: Found, place: Workspace) -> None:
    warning = {"kind": "collapse", "step": 12, "text": "95% was removed."}
    file = place.model("ink", "nsync", 0) / "training.json"
    file.write_text(json.dumps({"warnings": [warning]}))
    result = found(checks.without_warnings, "training", "nsync")
    assert (result.passed, result.severity) == (False, AssetCheckSeverity.WARN)
    assert result.description == "Step 12: 95% was removed."
    assert result.metadata["collapse"].value == 12
