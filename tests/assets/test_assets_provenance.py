"""The tags of assets/provenance.py, held to what Dagster itself makes of them."""

import asyncio

import pytest
from assets.provenance import (
    Dependency,
    data_version_tags,
    latest,
    lock_tag_of,
    observe,
    provenance_tags,
    version_of,
)
from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetSpec,
    DagsterInstance,
    Definitions,
    MaterializeResult,
    StaticPartitionsDefinition,
    asset,
)
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

PARTS = StaticPartitionsDefinition(["a", "b"])
SETTINGS, MADE = AssetKey("settings"), AssetKey("made")


@asset(deps=[SETTINGS], partitions_def=PARTS, code_version="1")
def made() -> MaterializeResult:  # type: ignore[type-arg]
    raise NotImplementedError


@asset(deps=[made], code_version="1")
def gathered() -> MaterializeResult:  # type: ignore[type-arg]
    raise NotImplementedError


GRAPH = Definitions(
    assets=[AssetSpec(SETTINGS, partitions_def=PARTS), made, gathered]
).resolve_asset_graph()


@pytest.fixture
def instance() -> DagsterInstance:
    return DagsterInstance.ephemeral()


def _status(instance: DagsterInstance, key: AssetKey, partition: str | None) -> StaleStatus:
    async def ask() -> StaleStatus:
        context = LoadingContextForTest(instance)
        return CachingStaleStatusResolver(instance, GRAPH, context).get_status(key, partition)

    return asyncio.run(ask())


def _report(
    instance: DagsterInstance, partition: str, version: str, settings: str, code: str = "1"
) -> None:
    read = Dependency(SETTINGS, partition, settings)
    observe(instance, read)
    tags = provenance_tags(instance, code, f"lock_of_{version}", (read,), frozenset({SETTINGS}))
    tags |= data_version_tags(version)
    instance.report_runless_asset_event(AssetMaterialization(MADE, partition=partition, tags=tags))


def _report_gathered(instance: DagsterInstance, a: str, b: str) -> None:
    read = (Dependency(MADE, "a", a), Dependency(MADE, "b", b))
    tags = provenance_tags(instance, "1", "lock", read, frozenset()) | data_version_tags("g")
    instance.report_runless_asset_event(AssetMaterialization(AssetKey("gathered"), tags=tags))


def test_what_was_never_made_is_missing(instance: DagsterInstance) -> None:
    assert _status(instance, MADE, "a") is StaleStatus.MISSING


def test_reported_artefact_is_fresh_until_its_settings_change(instance: DagsterInstance) -> None:
    _report(instance, "a", "v1", settings="s1")
    _report(instance, "b", "v1", settings="s1")
    assert _status(instance, MADE, "a") is StaleStatus.FRESH
    observe(instance, Dependency(SETTINGS, "a", "s2"))
    assert _status(instance, MADE, "a") is StaleStatus.STALE
    assert _status(instance, MADE, "b") is StaleStatus.FRESH
    observe(instance, Dependency(SETTINGS, "a", "s1"))  # taken back
    assert _status(instance, MADE, "a") is StaleStatus.FRESH


def test_artefact_of_other_code_is_stale(instance: DagsterInstance) -> None:
    _report(instance, "a", "v1", settings="s1", code="2")
    assert _status(instance, MADE, "a") is StaleStatus.STALE


def test_made_anew_with_the_same_bytes_leaves_what_comes_after_it_fresh(
    instance: DagsterInstance,
) -> None:
    _report(instance, "a", "v1", settings="s1")
    _report(instance, "b", "v1", settings="s1")
    _report_gathered(instance, "v1", "v1")
    _report(instance, "a", "v1", settings="s2")
    assert _status(instance, AssetKey("gathered"), None) is StaleStatus.FRESH
    _report(instance, "a", "v2", settings="s3")
    assert _status(instance, AssetKey("gathered"), None) is StaleStatus.STALE


@pytest.mark.parametrize("later", ["a", "b"])
def test_artefact_of_an_earlier_version_is_stale(instance: DagsterInstance, later: str) -> None:
    """It is reported only after that version was replaced, as a lock can say."""
    _report(instance, "a", "v1", settings="s1")
    _report(instance, "b", "v1", settings="s1")
    _report(instance, later, "v2", settings="s2")
    _report_gathered(instance, "v1", "v1")
    assert _status(instance, AssetKey("gathered"), None) is StaleStatus.STALE


def test_observing_twice_is_one_event(instance: DagsterInstance) -> None:
    seen = Dependency(SETTINGS, "a", "s1")
    assert observe(instance, seen)
    assert not observe(instance, seen)
    assert version_of(latest(instance, SETTINGS, "a", external=True)) == "s1"


def test_lock_entry_is_known_by_its_digest(instance: DagsterInstance) -> None:
    assert lock_tag_of(latest(instance, MADE, "a", external=False)) is None
    _report(instance, "a", "v1", settings="s1")
    assert lock_tag_of(latest(instance, MADE, "a", external=False)) == "lock_of_v1"
