"""The tags by which Dagster tells fresh from stale, written from what ``dvc.lock`` says.

Dagster writes these tags itself, from what it knew when a step began. An artefact's true inputs are
those in the lock, also for what Dagster did not run, so the tags are made here. Their names live in
private modules of dagster: its version is pinned, and a test holds this file to its behaviour.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterInstance,
    EventLogRecord,
)
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from assets.lock_file import json_digest

LOCK_TAG = "nsync/dvc_lock"
"""Digest of the whole lock entry: by the outs alone, the same bytes from new inputs stay stale."""
BEFORE_ALL = 1
"""An event number no artefact has: what is read from there on is news."""
HISTORY = 100
"""How many materializations are searched for the one an artefact was made from."""


@dataclass(frozen=True)
class Dependency:
    """One partition of one asset, at the version an artefact was made from."""

    key: AssetKey
    partition: str
    version: str


def latest(
    instance: DagsterInstance, key: AssetKey, partition: str, external: bool
) -> EventLogRecord | None:
    """The last event that says the version of an artefact, or of something external."""
    return instance.get_latest_data_version_record(key, external, partition)


def version_of(record: EventLogRecord | None) -> str | None:
    """The version an event says."""
    return _tags(record).get(DATA_VERSION_TAG)


def lock_tag_of(record: EventLogRecord | None) -> str | None:
    """The digest of the lock entry an event was written from."""
    return _tags(record).get(LOCK_TAG)


def observe(instance: DagsterInstance, seen: Dependency) -> bool:
    """Tell Dagster the version of something external; gives whether that is news to it."""
    if version_of(latest(instance, seen.key, seen.partition, external=True)) == seen.version:
        return False
    instance.report_runless_asset_event(
        AssetObservation(
            asset_key=seen.key, partition=seen.partition, tags={DATA_VERSION_TAG: seen.version}
        )
    )
    return True


def provenance_tags(
    instance: DagsterInstance,
    code_version: str,
    lock_digest: str,
    dependencies: tuple[Dependency, ...],
    external: frozenset[AssetKey],
) -> dict[str, str]:
    """The tags of an artefact that was made from ``dependencies``."""
    tags = {CODE_VERSION_TAG: code_version, LOCK_TAG: lock_digest}
    for key in dict.fromkeys(dependency.key for dependency in dependencies):
        of_key = [dependency for dependency in dependencies if dependency.key == key]
        versions = {dependency.partition: dependency.version for dependency in of_key}
        version = next(iter(versions.values())) if len(versions) == 1 else json_digest(versions)
        tags[get_input_data_version_tag(key)] = version
        pointer = _pointer(instance, of_key, key in external)
        tags[get_input_event_pointer_tag(key)] = str(pointer)
    return tags


def data_version_tags(version: str) -> dict[str, str]:
    """The tags of a materialization outside of a run; within one, Dagster adds them itself."""
    return {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}


def _pointer(instance: DagsterInstance, dependencies: list[Dependency], external: bool) -> int:
    """The event after which a new version of any of ``dependencies`` is news.

    That is the last event of all, as long as each one's last event has the version that was read.
    Otherwise it is an earlier one, so that what came after it shows as news.
    """
    current, past = [], []
    for dependency in dependencies:
        record = latest(instance, dependency.key, dependency.partition, external)
        if record is not None and version_of(record) == dependency.version:
            current.append(record.storage_id)
        else:
            past.append(_event_of(instance, dependency, external))
    return min(past) if past else max(current)


def _event_of(instance: DagsterInstance, dependency: Dependency, external: bool) -> int:
    """The last event that had the version which was read."""
    fetch = instance.fetch_observations if external else instance.fetch_materializations
    filters = AssetRecordsFilter(dependency.key, asset_partitions=[dependency.partition])
    for record in fetch(filters, limit=HISTORY).records:
        if version_of(record) == dependency.version:
            return record.storage_id
    return BEFORE_ALL


def _tags(record: EventLogRecord | None) -> Mapping[str, str]:
    if record is None:
        return {}
    event: AssetMaterialization | AssetObservation | None = (
        record.asset_materialization or record.event_log_entry.asset_observation
    )
    return (event.tags if event else None) or {}
