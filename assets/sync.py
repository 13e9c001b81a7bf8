"""Carries ``dvc.lock`` back into Dagster, so that its page shows what any door has made."""

from dagster import DagsterInstance

from assets.artefact import all_artefacts, report_outside_of_a_run
from assets.keys import settings_key
from assets.lock_file import LOCK, json_digest, read_lock
from assets.partitions import PARAMS
from assets.present import filled_now, params_now, settings_of
from assets.provenance import Dependency, observe


def sync_from_lock(instance: DagsterInstance) -> list[str]:
    """Report the artefacts Dagster does not know; gives their DVC names.

    Artefacts come in the order in which they were made, each after the settings it was made with;
    last come the settings and inputs of this moment, so that what they make stale shows as such.
    """
    lock = read_lock(LOCK)
    told = []
    for style in PARAMS.styles:
        for artefact in all_artefacts(style):
            entry = lock.get(artefact.dvc_stage)
            if entry and report_outside_of_a_run(instance, artefact, entry):
                told.append(artefact.dvc_stage)
        observe_present(instance, style)
    return told


def observe_present(instance: DagsterInstance, style: str) -> None:
    """Tell Dagster the settings of a style, its pictures and choices, as they are now."""
    for key, version in filled_now(style).items():
        observe(instance, Dependency(key, style, version))
    params = params_now()
    for artefact in all_artefacts(style):
        now = json_digest(settings_of(params, artefact.settings_keys))
        key = settings_key(artefact.asset)
        observe(instance, Dependency(key, artefact.partition, now))
