"""Checks of each artefact, by partition. Blocking ones: what is wrong here must not be built upon.

Two only warn: of a training's course, and of what is not up to date any more.
"""

import csv
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    PreviewWarning,
    asset_check,
)
from PIL import Image

from nsync_pipeline.graph.artefacts import Artefact, Graph, State
from nsync_pipeline.graph.table import STAGES, Stage
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, SAMPLES, STYLE_SET, read_manifest
from nsync_pipeline.workspace import MANIFEST_FILE

from .lineage import asset_key
from .partitions import artefact_of, partitions_of
from .workspace import WORKSPACE, graph_now

# That a check has partitions is new in dagster, and it says so at each of them.
warnings.filterwarnings("ignore", category=PreviewWarning)

UP_TO_DATE = "up_to_date"
SHOWN = 10  # names of what is wrong

Check = Callable[[Graph, Artefact], AssetCheckResult]
"""Looks at one artefact."""


def decodable(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """Every picture can be decoded, and has the size its manifest says."""
    schemas = {"style_set": STYLE_SET, "negative_set": NEGATIVE_SET}
    folder = WORKSPACE.root / artefact.path
    schema = schemas.get(artefact.stage.name, SAMPLES)
    return _wrong(_undecodable(folder, read_manifest(folder / MANIFEST_FILE, schema)))


def no_test_picture_in_train(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """No picture is both trained on and tested with, and neither side is empty."""
    rows = read_manifest(WORKSPACE.style_set(artefact.style) / MANIFEST_FILE, STYLE_SET)
    sides = {split: [row for row in rows if row["split"] == split] for split in ("train", "test")}
    empty = [f"no picture in {split}" for split, side in sides.items() if not side]
    trained = {row[key] for row in sides["train"] for key in ("id", "sha256")}
    leaks = [row["id"] for row in sides["test"] if trained & {row["id"], row["sha256"]}]
    return _wrong([*empty, *leaks])


def negatives_paired(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """Every training picture has all its negatives, and no negative is without its picture."""
    rows = read_manifest(WORKSPACE.negative_set(artefact.style) / MANIFEST_FILE, NEGATIVE_SET)
    positives = read_manifest(WORKSPACE.style_set(artefact.style) / MANIFEST_FILE, STYLE_SET)
    count = graph.params.negative_set.per_positive
    wanted = {(p["id"], k) for p in positives if p["split"] == "train" for k in range(count)}
    there = {(row["positive_id"], row["k"]) for row in rows}
    return _wrong([f"{positive} {k}" for positive, k in sorted(wanted ^ there)])


def losses_finite(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """Every figure of the training's history is a finite number."""
    with (WORKSPACE.root / artefact.path / "history.csv").open(newline="") as file:
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
    summary = WORKSPACE.root / artefact.path / "training.json"
    found = json.loads(summary.read_text(encoding="utf-8"))["warnings"]
    return AssetCheckResult(
        passed=not found,
        severity=AssetCheckSeverity.WARN,
        description=" ".join(f"Step {one['step']}: {one['text']}" for one in found) or None,
        metadata={one["kind"]: one["step"] for one in found},
    )


def up_to_date(graph: Graph, artefact: Artefact) -> AssetCheckResult:
    """It was made by the settings and from the inputs that there are now."""
    standing = graph.standings([artefact.style], artefact.of_ablation)[artefact]
    return AssetCheckResult(
        passed=standing.state is State.FRESH,
        severity=AssetCheckSeverity.WARN,
        description=standing.why or "made from what is there now",
    )


BLOCKING: dict[str, tuple[Check, ...]] = {
    "style_set": (decodable, no_test_picture_in_train),
    "negative_set": (decodable, negatives_paired),
    "training": (losses_finite,),
    "generation": (decodable,),
    "base_generation": (decodable,),
}
"""By the stage whose artefact they look at."""
WARNING: dict[str, tuple[Check, ...]] = {"training": (without_warnings,)}


def _checks(stage: Stage, of_ablation: bool) -> list[AssetChecksDefinition]:
    blocking, warns = BLOCKING.get(stage.name, ()), (*WARNING.get(stage.name, ()), up_to_date)
    return [_check(stage, of_ablation, check, check in blocking) for check in (*blocking, *warns)]


def _check(stage: Stage, of_ablation: bool, check: Check, blocking: bool) -> AssetChecksDefinition:
    @asset_check(
        asset=asset_key(stage, of_ablation),
        name=check.__name__,
        description=check.__doc__,
        blocking=blocking,
        partitions_def=partitions_of(stage.per_training, of_ablation),
    )
    def stage_check(context: AssetCheckExecutionContext) -> AssetCheckResult:
        key = context.partition_key
        found = check(graph_now(), artefact_of(stage.name, key, of_ablation))
        return AssetCheckResult(
            passed=found.passed,
            severity=found.severity,
            description=found.description,
            metadata={"partition": key, **found.metadata},
        )

    return stage_check


def _undecodable(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    wrong = []
    for row in rows:
        try:
            with Image.open(folder / row["file"]) as picture:
                picture.load()
                if picture.size != (row["width"], row["height"]):
                    wrong.append(f"{row['file']}: {picture.size}")
        except OSError as error:
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
