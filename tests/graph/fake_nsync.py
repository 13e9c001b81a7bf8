"""``nsync run`` with stages that take milliseconds; engine, DVC and Dagster around them are real.

A fake stage writes one file that is a function of its settings and of what it reads. In the
environment, ``FAKE_SECONDS`` is how long each takes, ``FAKE_SLOW`` names one that takes a minute,
``FAKE_FAILS`` names one that fails; each adds its name to the file ``FAKE_LOG`` once it is done.
"""

import argparse
import csv
import hashlib
import json
import os
import sys
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from nsync_pipeline.graph.inputs import settings_of
from PIL import Image

from nsync_pipeline.cli.ablate import make_shared
from nsync_pipeline.errors import InputsChangedError, UserError
from nsync_pipeline.graph import STAGES, Place, run_stage
from nsync_pipeline.graph import run as run_module
from nsync_pipeline.graph.ablation import Ablation, Asked, run_ablation
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, SAMPLES, STYLE_SET, write_manifest
from nsync_pipeline.stage import Preview, StageContext, StageResult
from nsync_pipeline.workspace import BASE, MANIFEST_FILE, Workspace


def fake_run(name: str, context: StageContext) -> StageResult:
    """One file of what the stage read; for a training a history, for an evaluation metrics."""
    stage = STAGES[name]
    variant = context.variant if stage.per_training else None
    place = Place(context.workspace, context.style)
    if variant is not None:
        place = replace(place, variant=variant, training_seed=context.training_seed)
    read: dict[str, Any] = settings_of(context.params, stage.keys(context.style, variant))
    for path in stage.inputs(place, context.params.training_runs()):
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            relative = file.relative_to(context.workspace.root).as_posix()
            read[relative] = hashlib.sha256(file.read_bytes()).hexdigest()
    folder = stage.folder(place)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "first.json").write_text(json.dumps(read, sort_keys=True))
    slow = os.environ.get("FAKE_SLOW") == name
    for step in range(10):
        context.progress("steps", step + 1, 10)
        context.log.metrics({"loss_positive": 1.0 / (step + 1)}, step)
        time.sleep(6 if slow else float(os.environ.get("FAKE_SECONDS", "0")) / 10)
    if os.environ.get("FAKE_FAILS") == name:
        raise UserError(f"{name} was told to fail")
    if name == "training":
        with (folder / "history.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["step", "loss_positive", "norm_refined"])
            rows.writerows([step, 1.0 / step, 2.0 / step] for step in range(1, 6))
        (folder / "training.json").write_text(json.dumps({"warnings": []}))
        (folder / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    if name == "evaluation":
        figure = int(hashlib.sha256(json.dumps(read).encode()).hexdigest()[:6], 16)
        (folder / "metrics.json").write_text(json.dumps({"of_what_was_read": figure}))
        (folder / "plots").mkdir()
        (folder / "plots" / "summary.csv").write_text("variant,style_margin\nbase,0.5\n")
        (folder / "plots" / "pictures.csv").write_text("prompt_fidelity,style_margin\n20,0.5\n")
    _write_manifest(name, folder, context)
    (folder / "last.json").write_text(json.dumps(read, sort_keys=True))
    if "FAKE_LOG" in os.environ:
        with Path(os.environ["FAKE_LOG"]).open("a") as log:
            log.write("-".join([name, *place.parts]) + "\n")
    jpeg = BytesIO()
    Image.new("RGB", (16, 16), "orange").save(jpeg, "JPEG")
    return StageResult({"files": len(read)}, (Preview("a square", jpeg.getvalue()),))


def _write_manifest(name: str, folder: Path, context: StageContext) -> None:
    """Two pictures, one for each split, with manifests as the real stages write them."""
    schemas = {"style_set": STYLE_SET, "negative_set": NEGATIVE_SET}
    schema = schemas.get(name, SAMPLES if "generation" in name else None)
    if schema is None:
        return
    (folder / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for id_, split in (("aa", "train"), ("bb", "test")):
        Image.new("RGB", (8, 8), "orange" if id_ == "aa" else "navy").save(
            folder / "images" / f"{id_}.png"
        )
        row: dict[str, Any] = {
            "id": id_, "file": f"images/{id_}.png", "sha256": id_, "width": 8, "height": 8,
            "split": split, "origin": id_, "positive_id": "aa", "k": 0, "prompt": "p", "seed": 1,
            "base_model": "b", "base_revision": "r", "sampler": "s", "steps": 1,
            "guidance_scale": 1.0, "prompt_id": "bb", "caption": "c", "variant": context.variant,
        }  # fmt: skip
        rows.append({key: value for key, value in row.items() if key in schema.names})
    write_manifest(folder / MANIFEST_FILE, rows[:1] if name == "negative_set" else rows, schema)


def install_fake_stages() -> None:
    """Put a fake module in the place of each stage's; the code it reads is the workspace's."""
    run_module.PACKAGE = Path.cwd() / "nsync_pipeline"
    for stage in STAGES.values():
        module = stage.module or stage.name

        def run(context: StageContext, module: str = module) -> StageResult:
            base = module == "generation" and context.variant == BASE
            return fake_run("base_generation" if base else module, context)

        sys.modules[f"nsync_pipeline.stages.{module}"] = cast(ModuleType, SimpleNamespace(run=run))


def main() -> int:
    """As ``nsync run STAGE --style S --variant V --training-seed K``, and ``nsync ablate S``."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("stage")
    run.add_argument("--style", required=True)
    run.add_argument("--variant")
    run.add_argument("--training-seed", type=int)
    ablate = verbs.add_parser("ablate")
    ablate.add_argument("style")
    ablate.add_argument("--only")
    given = parser.parse_args()
    install_fake_stages()
    try:
        workspace = Workspace(Path.cwd())
        if given.verb == "ablate":
            only = None if given.only is None else tuple(given.only.split(","))
            run_ablation(Ablation(workspace, given.style, Asked(only)), make_shared)
        else:
            run_stage(workspace, given.stage, given.style, given.variant, given.training_seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return InputsChangedError.exit_code if isinstance(error, InputsChangedError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
