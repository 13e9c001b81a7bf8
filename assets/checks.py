"""Checks of each artefact, by partition. Blocking ones: what is wrong here must not be built upon.

Two only warn: of a training's course, and of what is not up to date any more. In a run of one
partition a check looks at that; started from its page, which asks for none, at all that are made.
(Dagster fails one with partitions of its own that is started without.)
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetKey,
    MetadataValue,
    TableRecord,
    asset_check,
)

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import read_json
from nsync_pipeline.graph.artefacts import Artefact, Graph, Standing, State
from nsync_pipeline.graph.table import STAGES, Stage
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, SAMPLES, STYLE_SET, read_manifest
from nsync_pipeline.pictures.pixels import open_picture
from nsync_pipeline.workspace import MANIFEST_FILE, POINTS_FOLDER

from .lineage import asset_key
from .partitions import artefact_of, partition_key
from .workspace import graph_now

UP_TO_DATE = "up_to_date"
SHOWN, ROWS = 10, 100  # names of what is wrong, and rows of a table

Check = Callable[[Graph, Artefact], AssetCheckResult]
"""Looks at one artefact."""


def decodable(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """Every picture can be decoded, and has the size its manifest says."""
    schemas = {"style_set": STYLE_SET, "negative_set": NEGATIVE_SET}
    schema = schemas.get(artefact.stage.name, SAMPLES)
    folder = graph.workspace.root / artefact.path
    points = [file.parent for file in folder.glob(f"{POINTS_FOLDER}/*/{MANIFEST_FILE}")]
    return _wrong(
        [
            name
            for place in (folder, *sorted(points))
            for name in _undecodable(place, read_manifest(place / MANIFEST_FILE, schema))
        ]
    )


def no_test_picture_in_train(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """No picture is both trained on and tested with, and neither side is empty."""
    rows = read_manifest(graph.workspace.style_set(artefact.style) / MANIFEST_FILE, STYLE_SET)
    sides = {split: [row for row in rows if row["split"] == split] for split in ("train", "test")}
    empty = [f"no picture in {split}" for split, side in sides.items() if not side]
    trained = {row[key] for row in sides["train"] for key in ("id", "sha256")}
    leaks = [row["id"] for row in sides["test"] if trained & {row["id"], row["sha256"]}]
    return _wrong([*empty, *leaks])


def negatives_paired(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """Every training picture has all its negatives, and no negative is without its picture."""
    rows = read_manifest(graph.workspace.negative_set(artefact.style) / MANIFEST_FILE, NEGATIVE_SET)
    positives = read_manifest(graph.workspace.style_set(artefact.style) / MANIFEST_FILE, STYLE_SET)
    count = graph.params.negative_set.per_positive
    wanted = {(p["id"], k) for p in positives if p["split"] == "train" for k in range(count)}
    there = {(row["positive_id"], row["k"]) for row in rows}
    return _wrong([f"{positive} {k}" for positive, k in sorted(wanted ^ there)])


def losses_finite(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """Every figure of the training's history is a finite number."""
    with (graph.workspace.root / artefact.path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = [
        f"step {row['step']}: {name} is {value}"
        for row in rows
        for name, value in row.items()
        if value and not math.isfinite(float(value))
    ]
    return _wrong(wrong if rows else ["the history is empty"])


def without_warnings(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """Nothing in the training's course should make a person look up (docs/watching.md)."""
    summary = graph.workspace.root / artefact.path / "training.json"
    found = read_json(summary)["warnings"]
    return AssetCheckResult(
        passed=not found,
        severity=AssetCheckSeverity.WARN,
        description=" ".join(f"Step {one['step']}: {one['text']}" for one in found) or None,
        metadata={one["kind"]: one["step"] for one in found},
    )


@dataclass(frozen=True)
class Freshness:
    """How the artefacts of one stage that are there stand."""

    count: int
    stale: Mapping[str, str]  # why an artefact is not up to date, by partition

    @property
    def description(self) -> str:
        if not self.stale:
            return "made from what is there now"
        partition, why = next(iter(self.stale.items()))
        return f"{len(self.stale)} of {self.count} not up to date; {partition}: {why}"

    def result(self) -> AssetCheckResult:
        rows = [TableRecord({"partition": p, "why": why}) for p, why in self.stale.items()]
        return AssetCheckResult(
            passed=not rows,
            severity=AssetCheckSeverity.WARN,
            description=self.description,
            metadata={"not up to date": MetadataValue.table(rows[:ROWS])} if rows else {},
        )


def freshness(standings: Mapping[Artefact, Standing]) -> dict[AssetKey, Freshness]:
    """Of every asset of which something was made."""
    made: dict[AssetKey, dict[str, str]] = {}
    for artefact, standing in standings.items():
        if standing.made is not None:
            key = asset_key(artefact.stage, artefact.of_ablation)
            why = "" if standing.state is State.FRESH else standing.why
            made.setdefault(key, {})[partition_key(artefact)] = why
    return {
        key: Freshness(len(whys), {partition: why for partition, why in whys.items() if why})
        for key, whys in made.items()
    }


BLOCKING: dict[str, tuple[Check, ...]] = {
    "style_set": (decodable, no_test_picture_in_train),
    "negative_set": (decodable, negatives_paired),
    "training": (losses_finite,),
    "generation": (decodable,),
    "base_generation": (decodable,),
}
"""By the stage whose artefact they look at."""
WARNING: dict[str, tuple[Check, ...]] = {"training": (without_warnings,)}


def _checks(stage: Stage, of_ablation: bool) -> Iterator[AssetChecksDefinition]:
    for check in BLOCKING.get(stage.name, ()):
        yield _check(stage, of_ablation, check, blocking=True)
    for check in WARNING.get(stage.name, ()):
        yield _check(stage, of_ablation, check, blocking=False)
    yield _up_to_date(stage, of_ablation)


def _up_to_date(stage: Stage, of_ablation: bool) -> AssetChecksDefinition:
    key = asset_key(stage, of_ablation)

    @asset_check(
        asset=key,
        name=UP_TO_DATE,
        description="All that is there was made by the settings and from the inputs of now.",
    )
    def stage_check() -> AssetCheckResult:
        graph = graph_now()
        standings = graph.standings(list(graph.params.styles), of_ablation)
        return freshness(standings).get(key, Freshness(0, {})).result()

    return stage_check


def _check(stage: Stage, of_ablation: bool, check: Check, blocking: bool) -> AssetChecksDefinition:
    @asset_check(
        asset=asset_key(stage, of_ablation),
        name=check.__name__,
        description=check.__doc__,
        blocking=blocking,
    )
    def stage_check(context: AssetCheckExecutionContext) -> AssetCheckResult:
        graph = graph_now()
        if context.has_partition_key:
            key = context.partition_key
            found = check(graph, artefact_of(stage.name, key, of_ablation))
            return AssetCheckResult(
                passed=found.passed,
                severity=found.severity,
                description=": ".join(filter(None, (key, found.description))),
                metadata={"partition": key, **found.metadata},
            )
        standings = graph.standings(list(graph.params.styles), of_ablation)
        made = [a for a, standing in standings.items() if a.stage == stage and standing.made]
        return _of_all({partition_key(one): check(graph, one) for one in made})

    return stage_check


def _of_all(found: Mapping[str, AssetCheckResult]) -> AssetCheckResult:
    """Of every partition that is made: what the page's button asks for, which names none."""
    wrong = {partition: one for partition, one in found.items() if not one.passed}
    rows = [TableRecord({"partition": p, "passed": bool(one.passed)}) for p, one in found.items()]
    said = [f"{p}: {one.description or _first(one)}" for p, one in wrong.items()]
    return AssetCheckResult(
        passed=not wrong,
        severity=next((one.severity for one in wrong.values()), AssetCheckSeverity.WARN),
        description="; ".join(said[:SHOWN]) or f"{len(found)} partitions looked at",
        metadata={"partitions": MetadataValue.table(rows[:ROWS])} if rows else {},
    )


def _first(one: AssetCheckResult) -> str:
    return str(one.metadata["first"].value)


def _undecodable(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    wrong = []
    for row in rows:
        try:
            picture = open_picture(folder / row["file"])
            if picture.size != (row["width"], row["height"]):
                wrong.append(f"{row['file']}: {picture.size}")
        except MissingArtifactError as error:
            wrong.append(f"{row['file']}: {error}")
    return wrong


def _wrong(names: list[str]) -> AssetCheckResult:
    return AssetCheckResult(
        passed=not names, metadata={"wrong": len(names), "first": ", ".join(names[:SHOWN])}
    )


CHECKS = [
    check
    for of_ablation in (False, True)
    for stage in STAGES.values()
    if not (of_ablation and stage.shared)
    for check in _checks(stage, of_ablation)
]
