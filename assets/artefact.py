"""One artefact of the graph as ``dvc.lock`` has it, told in Dagster's words."""

import base64
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    MultiPartitionKey,
)
from nsync_pipeline.graph.records import read_record

from assets.keys import ASSET_OF, STAGE_OF, read_by, settings_key
from assets.lock_file import LockEntry, json_digest, stage_name
from assets.partitions import PARAMS, partition_key
from assets.place import WORKSPACE
from assets.present import filled_by_people
from assets.provenance import (
    Dependency,
    data_version_tags,
    latest,
    lock_tag_of,
    observe,
    provenance_tags,
)
from nsync_pipeline.graph import STAGES, Place, Stage
from nsync_pipeline.workspace import TrainingRun


@dataclass(frozen=True)
class Artefact:
    """One partition of one asset."""

    asset: str
    style: str
    training: TrainingRun | None = None

    @property
    def stage(self) -> Stage:
        return STAGE_OF[self.asset]

    @property
    def partition(self) -> str:
        return partition_key(self.style, self.training)

    @property
    def dvc_stage(self) -> str:
        return stage_name(self.stage.name, self.style, self.training)

    @property
    def place(self) -> Place:
        return place_of(self.style, self.training)

    @property
    def settings_keys(self) -> tuple[str, ...]:
        """The keys of ``params.yaml`` it is made by."""
        return self.stage.keys(self.style, self.training.variant if self.training else None)


def place_of(style: str, training: TrainingRun | None) -> Place:
    """Where an artefact of a stage lies."""
    if training is None:
        return Place(WORKSPACE, style)
    return Place(WORKSPACE, style, training.variant, training.training_seed)


def all_artefacts(style: str) -> list[Artefact]:
    """Every artefact of a style, each after what it needs."""
    return [
        Artefact(asset, style, training)
        for asset, stage in STAGE_OF.items()
        for training in (PARAMS.training_runs() if stage.per_training else (None,))
    ]


def materialize_result(
    instance: DagsterInstance, artefact: Artefact, entry: LockEntry
) -> MaterializeResult[Any]:
    """What an asset returns once DVC has brought its artefact up to date."""
    return MaterializeResult(
        data_version=DataVersion(entry.out),
        tags=_provenance(instance, artefact, entry),
        metadata=_metadata(artefact, entry),
    )


def report_outside_of_a_run(
    instance: DagsterInstance, artefact: Artefact, entry: LockEntry
) -> bool:
    """Tell Dagster of what DVC made without it; gives whether that was news."""
    record = latest(instance, AssetKey(artefact.asset), artefact.partition, external=False)
    if lock_tag_of(record) == entry.digest:
        return False
    tags = _provenance(instance, artefact, entry) | data_version_tags(entry.out)
    key = artefact.partition
    if isinstance(key, MultiPartitionKey):
        tags |= {f"dagster/partition/{name}": part for name, part in key.keys_by_dimension.items()}
    instance.report_runless_asset_event(
        AssetMaterialization(
            asset_key=AssetKey(artefact.asset), partition=key, tags=tags,
            metadata=_metadata(artefact, entry),
        )
    )  # fmt: skip
    return True


def _provenance(instance: DagsterInstance, artefact: Artefact, entry: LockEntry) -> dict[str, str]:
    external = [
        Dependency(settings_key(artefact.asset), artefact.partition, json_digest(entry.settings))
    ]
    for key, folder in filled_by_people(artefact.style).items():
        # What was made before its stage read the folder has no version of it.
        if read_by(artefact.stage)[key] and folder in entry.deps:
            external.append(Dependency(key, artefact.style, entry.deps[folder]))
    for seen in external:
        observe(instance, seen)
    return provenance_tags(
        instance,
        json_digest(entry.code),
        entry.digest,
        (*_upstream(artefact, entry), *external),
        frozenset(dependency.key for dependency in external),
    )


def _upstream(artefact: Artefact, entry: LockEntry) -> list[Dependency]:
    """The artefacts it was made from, as the lock has them, but for trainings since gone."""
    dependencies = []
    for need in artefact.stage.needs:
        stage = STAGES[need]
        trainings: tuple[TrainingRun | None, ...] = (None,)
        if stage.per_training:
            trainings = (artefact.training,) if artefact.training else PARAMS.training_runs()
        for training in trainings:
            folder = stage.folder(place_of(artefact.style, training))
            version = entry.deps.get(folder.relative_to(WORKSPACE.root).as_posix())
            if version is not None:
                key = AssetKey(ASSET_OF[need])
                partition = partition_key(artefact.style, training)
                dependencies.append(Dependency(key, partition, version))
    return dependencies


def _metadata(artefact: Artefact, entry: LockEntry) -> dict[str, MetadataValue[Any]]:
    metadata: dict[str, MetadataValue[Any]] = {
        "folder": MetadataValue.path(str(artefact.stage.folder(artefact.place))),
        "dvc": MetadataValue.text(f"{artefact.dvc_stage} · {entry.out}"),
        "settings": MetadataValue.json(entry.settings),
    }
    if artefact.training is not None:
        metadata["variant"] = MetadataValue.text(artefact.training.variant)
        metadata["training seed"] = MetadataValue.int(artefact.training.training_seed)
    return metadata | said_of(entry.out)


def said_of(digest: str) -> dict[str, MetadataValue[Any]]:
    """Figures and previews of the artefact with this digest, as its stage said them."""
    metadata: dict[str, MetadataValue[Any]] = {}
    said = read_record(WORKSPACE, digest)
    if said is None:
        return metadata
    for name, figure in said.figures.items():
        metadata[name] = (
            MetadataValue.text(figure) if isinstance(figure, str)
            else MetadataValue.float(figure) if isinstance(figure, float)
            else MetadataValue.int(figure)
        )  # fmt: skip
    for preview in said.previews:
        picture = base64.b64encode(preview.jpeg).decode()
        markdown = f"![{preview.title}](data:image/jpeg;base64,{picture})"
        metadata[preview.title] = MetadataValue.md(markdown)
    return metadata
