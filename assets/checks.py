"""Blocking checks: what is wrong here must not be built upon. And one that only warns."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    asset_check,
)
from PIL import Image

from assets.lineage import base_samples, lora, negative_set, samples, style_set
from assets.partitions import PARAMS, style_and_training
from assets.place import WORKSPACE
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, SAMPLES, STYLE_SET, read_manifest
from nsync_pipeline.workspace import BASE, MANIFEST_FILE, TrainingRun

SHOWN = 10  # names of what is wrong


@asset_check(asset=style_set, blocking=True)
def style_set_decodable(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Every picture of the set can be decoded, and has the size its manifest says."""
    style, _ = _partition(context)
    folder = WORKSPACE.style_set(style)
    return _wrong(_undecodable(folder, read_manifest(folder / MANIFEST_FILE, STYLE_SET)))


@asset_check(asset=style_set, blocking=True)
def no_test_picture_in_train(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """No picture is both trained on and tested with, and neither side is empty."""
    style, _ = _partition(context)
    rows = read_manifest(WORKSPACE.style_set(style) / MANIFEST_FILE, STYLE_SET)
    sides = {split: [row for row in rows if row["split"] == split] for split in ("train", "test")}
    empty = [f"no picture in {split}" for split, side in sides.items() if not side]
    trained = {row[key] for row in sides["train"] for key in ("id", "sha256")}
    leaks = [row["id"] for row in sides["test"] if trained & {row["id"], row["sha256"]}]
    return _wrong([*empty, *leaks])


@asset_check(asset=negative_set, blocking=True)
def negatives_paired(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Every training picture has all its negatives, and no negative is without its picture."""
    style, _ = _partition(context)
    rows = read_manifest(WORKSPACE.negative_set(style) / MANIFEST_FILE, NEGATIVE_SET)
    positives = read_manifest(WORKSPACE.style_set(style) / MANIFEST_FILE, STYLE_SET)
    count = PARAMS.negative_set.per_positive
    wanted = {(p["id"], k) for p in positives if p["split"] == "train" for k in range(count)}
    there = {(row["positive_id"], row["k"]) for row in rows}
    return _wrong([f"{positive} {k}" for positive, k in sorted(wanted ^ there)])


@asset_check(asset=negative_set, blocking=True)
def negative_set_decodable(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Every negative can be decoded, and has the size its manifest says."""
    style, _ = _partition(context)
    folder = WORKSPACE.negative_set(style)
    return _wrong(_undecodable(folder, read_manifest(folder / MANIFEST_FILE, NEGATIVE_SET)))


@asset_check(asset=lora, blocking=True)
def losses_finite(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Every figure of the training's history is a finite number."""
    with (_model(context) / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = [
        f"step {row['step']}: {name} is {value}"
        for row in rows
        for name, value in row.items()
        if value and not math.isfinite(float(value))
    ]
    return _wrong(wrong if rows else ["the history is empty"])


@asset_check(asset=lora)
def training_without_warnings(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Nothing in the training's course should make a person look up (docs/watching.md)."""
    return warned(_model(context) / "training.json")


def warned(summary: Path) -> AssetCheckResult:
    """The warnings of a training, from its ``training.json``: told, and nothing is held up."""
    warnings = json.loads(summary.read_text(encoding="utf-8"))["warnings"]
    return AssetCheckResult(
        passed=not warnings,
        severity=AssetCheckSeverity.WARN,
        description=" ".join(f"Step {found['step']}: {found['text']}" for found in warnings)
        or None,
        metadata={found["kind"]: found["step"] for found in warnings},
    )


@asset_check(asset=samples, blocking=True)
def samples_decodable(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Every picture drawn with the LoRA can be decoded."""
    return _samples_decodable(WORKSPACE.samples(*_training(context)))


@asset_check(asset=base_samples, blocking=True)
def base_samples_decodable(context: AssetCheckExecutionContext) -> AssetCheckResult:
    """Every picture drawn by the base can be decoded."""
    style, _ = _partition(context)
    return _samples_decodable(WORKSPACE.samples(style, BASE))


def _samples_decodable(folder: Path) -> AssetCheckResult:
    return _wrong(_undecodable(folder, read_manifest(folder / MANIFEST_FILE, SAMPLES)))


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


def _partition(context: AssetCheckExecutionContext) -> tuple[str, TrainingRun | None]:
    return style_and_training(context.op_execution_context.partition_key)


def _training(context: AssetCheckExecutionContext) -> tuple[str, str, int]:
    """Style, variant and training seed."""
    style, training = _partition(context)
    assert training is not None, "the asset is made once a training"
    return style, training.variant, training.training_seed


def _model(context: AssetCheckExecutionContext) -> Path:
    return WORKSPACE.model(*_training(context))


CHECKS = [
    style_set_decodable, no_test_picture_in_train, negatives_paired, negative_set_decodable,
    losses_finite, training_without_warnings, samples_decodable, base_samples_decodable,
]  # fmt: skip
