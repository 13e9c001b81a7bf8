"""``nsync run`` with stages that take milliseconds: the engine, DVC and Dagster around them are real.

A fake stage writes one file that is a function of its settings and of what it reads. The
environment makes it slow (``FAKE_SECONDS``), fail (``FAKE_FAILS``: the name of a stage) or say on
``FAKE_LOG`` that it ran.
"""

import argparse
import csv
import hashlib
import json
import os
import sys
import time
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from PIL import Image

from nsync_pipeline.artifacts import BASE, Workspace
from nsync_pipeline.errors import InputsChangedError, UserError
from nsync_pipeline.pipeline import STAGES, Place, run_stage
from nsync_pipeline.pipeline import run as run_module
from nsync_pipeline.pipeline.inputs import settings_of
from nsync_pipeline.stages.context import Preview, StageContext, StageResult


def fake_run(name: str, context: StageContext) -> StageResult:
    """One file of what the stage read; for a training a history, for an evaluation metrics."""
    stage = STAGES[name]
    variant = context.variant if stage.per_variant else None
    place = Place(context.workspace, context.style, variant)
    read: dict[str, Any] = settings_of(context.params, stage.keys(context.style, variant))
    for path in stage.inputs(place, tuple(context.params.variants)):
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            relative = file.relative_to(context.workspace.root).as_posix()
            read[relative] = hashlib.sha256(file.read_bytes()).hexdigest()
    folder = stage.folder(place)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "first.json").write_text(json.dumps(read, sort_keys=True))
    for step in range(10):
        context.progress("steps", step + 1, 10)
        context.log.metrics({"loss_positive": 1.0 / (step + 1)}, step)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")) / 10)
    if os.environ.get("FAKE_FAILS") == name:
        raise UserError(f"{name} was told to fail")
    if name == "training":
        with (folder / "history.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["step", "loss_positive", "norm_refined"])
            rows.writerows([step, 1.0 / step, 2.0 / step] for step in range(1, 6))
        (folder / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    if name == "evaluation":
        rate = {v: len(json.dumps(read)) / 1000 for v in context.params.variants}
        (folder / "metrics.json").write_text(json.dumps({"variants": rate}, sort_keys=True))
    (folder / "last.json").write_text(json.dumps(read, sort_keys=True))
    if "FAKE_LOG" in os.environ:
        with Path(os.environ["FAKE_LOG"]).open("a") as log:
            log.write("-".join(filter(None, [name, context.style, variant])) + "\n")
    jpeg = BytesIO()
    Image.new("RGB", (16, 16), "orange").save(jpeg, "JPEG")
    return StageResult({"files": len(read)}, (Preview("a square", jpeg.getvalue()),))


def install_fake_stages() -> None:
    """Put a fake module in the place of each stage's, and stand-ins in the place of its code."""
    run_module.PACKAGE = Path.cwd() / "nsync_pipeline"
    for stage in STAGES.values():
        module = stage.module or stage.name

        def run(context: StageContext, module: str = module) -> StageResult:
            base = module == "generation" and context.variant == BASE
            return fake_run("base_generation" if base else module, context)

        sys.modules[f"nsync_pipeline.stages.{module}"] = cast(ModuleType, SimpleNamespace(run=run))


def main() -> int:
    """As ``nsync run STAGE --style S --variant V``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("stage")
    parser.add_argument("--style", required=True)
    parser.add_argument("--variant")
    given = parser.parse_args()
    install_fake_stages()
    try:
        run_stage(Workspace(Path.cwd()), given.stage, given.style, given.variant)
    except UserError as error:
        print(error, file=sys.stderr)
        return InputsChangedError.exit_code if isinstance(error, InputsChangedError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
