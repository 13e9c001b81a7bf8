"""Stages that take milliseconds and need no torch, in the place of the real ones.

What a fake stage writes is a function of what the real one would be made from: its settings and the
contents of its inputs. A test steers it by ``Fakes``; another process by the environment (see
``fake_nsync.py``).
"""

import csv
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph.artefacts import AblationPart, Artefact, Graph
from nsync_pipeline.graph.made import describe
from nsync_pipeline.graph.table import STAGES, Stage
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, SAMPLES, STYLE_SET, write_manifest
from nsync_pipeline.stage import Preview, StageContext, StageResult
from nsync_pipeline.workspace import FIGURES_FOLDER, MANIFEST_FILE, PLOTS_FOLDER

SMALL_PARAMS = """\
seed: 0
base_model: {device: cpu}
styles:
  ink: {source: "sketchbook:woodblock", pictures: 8}
training:
  learning_rate: 0.002
variants:
  lora: {update_rule: none}
  nsync: {update_rule: orthogonal}
training_seeds: [0]
ablation:
  training_seeds: [0, 1]
  grid: {update_rule: [none, orthogonal]}
"""


@dataclass
class Fakes:
    """What the fake stages do, and what they did."""

    seconds: float = 0.0  # that each takes
    slow: str | None = None  # this one takes a minute
    fails: str | None = None  # this one fails, half-way
    steady: set[str] = field(default_factory=set)  # these make the same whatever they read
    meanwhile: Callable[[StageContext[Any]], object] | None = None  # called when half is written
    leftovers: tuple[Path, ...] = ()
    ran: list[str] = field(default_factory=list)

    def run(self, stage: Stage, context: StageContext[Any]) -> StageResult:
        """In the place of ``Stage.run``."""
        artefact = Artefact(
            stage, context.style, context.variant, context.training_seed,
            context.workspace.of_ablation,
        )  # fmt: skip
        plan = Graph.read(context.workspace, _part(context)).plan(artefact)
        read = {"stage": plan.stage, "settings": plan.settings, "inputs": plan.inputs}
        if stage.name in self.steady:
            read = {"stage": plan.stage}
        text = json.dumps(read, sort_keys=True)
        (context.folder / "first.json").write_text(text)
        for step in range(10):
            context.progress("steps", step + 1, 10)
            time.sleep(6 if self.slow == stage.name else self.seconds / 10)
        if self.meanwhile is not None:
            self.meanwhile(context)
        if self.fails == stage.name:
            raise UserError(f"{stage.name} was told to fail")
        _write_more(stage.name, context, text)
        (context.folder / "last.json").write_text(text)
        self.ran.append("-".join((stage.name, *artefact.parts)))
        jpeg = BytesIO()
        Image.new("RGB", (16, 16), "orange").save(jpeg, "JPEG")
        figures: dict[str, int | str] = {"inputs": len(plan.inputs), "verdict": "none"}
        return StageResult(figures, (Preview("a square", jpeg.getvalue()),), self.leftovers)


def _part(context: StageContext[Any]) -> AblationPart:
    """The part of an ablation that is compared, as a stage sees it in its settings."""
    if not (context.workspace.of_ablation and hasattr(context.settings, "variants")):
        return AblationPart()
    return AblationPart(context.settings.variants, context.settings.training_seeds)


def all_artefacts(graph: Graph, style: str, of_ablation: bool = False) -> list[Artefact]:
    """Those of a style, or all that its ablation takes, each after what it is made from."""
    return [
        artefact
        for stage in STAGES.values()
        for artefact in graph.of_stage(stage, style, of_ablation and not stage.shared)
    ]


def make_everything(graph: Graph, of_ablation: bool = False) -> list[Artefact]:
    """All that ``params.yaml`` asks for, without any stage: a file with a name in it, each."""
    made = []
    for style in graph.params.styles:
        for artefact in all_artefacts(graph, style, of_ablation):
            folder = graph.workspace.root / artefact.path
            if not folder.exists():
                folder.mkdir(parents=True)
                (folder / "content.txt").write_text(f"{artefact.title}\n")
                describe(folder, graph.plan(artefact), StageResult({"pictures": 8}))
                graph.refresh()
            made.append(artefact)
    return made


def _write_more(name: str, context: StageContext[Any], text: str) -> None:
    """What others look for in an artefact: curves, metrics, manifests."""
    folder = context.folder
    if name == "training":
        with (folder / "history.csv").open("w", newline="") as file:
            curves = csv.writer(file)
            curves.writerow(["step", "loss_positive", "norm_refined"])
            curves.writerows([step, 1.0 / step, 2.0 / step] for step in range(1, 6))
        (folder / "training.json").write_text(json.dumps({"warnings": []}))
        (folder / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    if name == "evaluation":
        figure = int(hashlib.sha256(text.encode()).hexdigest()[:6], 16)
        (folder / "metrics.json").write_text(json.dumps({"of_what_was_read": figure}))
        (folder / FIGURES_FOLDER).mkdir()
        (folder / FIGURES_FOLDER / "style_margin.json").write_text(json.dumps({"lora": figure}))
    if name == "report":
        (folder / PLOTS_FOLDER).mkdir()
        Image.new("RGB", (8, 8)).save(folder / PLOTS_FOLDER / "loss_positive.png")
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
            "guidance_scale": 1.0, "prompt_id": "bb", "caption": "c",
            "variant": context.variant or "base",
        }  # fmt: skip
        rows.append({key: value for key, value in row.items() if key in schema.names})
    write_manifest(folder / MANIFEST_FILE, rows[:1] if name == "negative_set" else rows, schema)
