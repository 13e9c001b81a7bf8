"""What there is to take home of a style: trained LoRAs, their pictures, and how to use them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.adaptation.saved_steps import saved_steps
from nsync_pipeline.drawing.prompts import style_phrase
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.files import read_json
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.pictures.manifest import SAMPLES, read_manifest
from nsync_pipeline.report.trainings import shown_names
from nsync_pipeline.workspace import BASE, MANIFEST_FILE, TrainingRun, Workspace, trained_files

MIB = 2**20


@dataclass(frozen=True)
class ExportedFile:
    name: str
    mib: float


@dataclass(frozen=True)
class TrainedLora:
    """One training that can be taken home."""

    run: TrainingRun
    name: str
    trigger: str  # what prompts end with
    base_model: str
    steps: int
    rule: str
    exported: Path | None  # the folder, where there is one
    files: tuple[ExportedFile, ...]  # of it
    steps_saved: tuple[int, ...] = ()  # its last among them; empty where it is all there is
    step_chosen: int | None = None

    @property
    def weights(self) -> str:
        """The file for ComfyUI and the others; empty where it is not exported."""
        found = [f.name for f in self.files if f.name.endswith(".safetensors")]
        own = [n for n in found if not n.startswith("pytorch_lora") and "embeddings" not in n]
        return own[0] if own else ""


def export_folder(workspace: Workspace, style: str, run: TrainingRun) -> Path:
    return workspace.root / "exports" / style / run.name


def trained_loras(graph: Graph, style: str) -> list[TrainedLora]:
    """Every training of a style that has ended, as its artefact says."""
    runs = graph.params.training_runs()
    names, used = shown_names(runs), graph.params.style(style).use_steps
    found = []
    for run in runs:
        folder = graph.workspace.model(style, run.variant, run.training_seed)
        if not trained_files(folder):
            continue
        try:
            summary = read_json(folder / "training.json")
            origin = summary["origin"]
            word, base, rule = origin["placeholder"], origin["base_model"], origin["update_rule"]
            steps = int(summary["steps"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a training of another version: the queue says that it is out of date
        place, steps_saved = export_folder(graph.workspace, style, run), saved_steps(folder)
        exported = place if (place / "export.json").is_file() else None
        files = sorted(exported.glob("*.safetensors")) if exported else []
        found.append(
            TrainedLora(
                run, names[run], style_phrase(word), Path(base).name or base, steps, rule, exported,
                tuple(ExportedFile(f.name, f.stat().st_size / MIB) for f in files),
                steps_saved if len(steps_saved) > 1 else (),
                chosen.step if (chosen := used.get(run.name)) else None,
            )
        )  # fmt: skip
    return found


def steps(loras: Sequence[TrainedLora]) -> list[str]:
    """What was saved, as columns of a comparison: ``nsync@50``."""
    every = [f"{lora.run.variant}@{step}" for lora in loras for step in lora.steps_saved]
    return list(dict.fromkeys(every))


@dataclass(frozen=True)
class SampleRow:
    """One caption, drawn by each from the same seed."""

    caption: str
    files: tuple[tuple[str, str], ...]  # who drew it, and the file; relative to the workspace
    real: str  # id of the picture whose caption it is


def sample_rows(graph: Graph, style: str, most: int) -> tuple[list[str], list[SampleRow]]:
    """The held-out captions as the base and each training drew them: the columns, and rows."""
    runs = graph.params.training_runs()
    names = {BASE: BASE} | {run.name: name for run, name in shown_names(runs).items()}
    places = {BASE: graph.workspace.samples(style, BASE)}
    places |= {
        run.name: graph.workspace.samples(style, run.variant, run.training_seed) for run in runs
    }
    drawn: dict[str, dict[str, tuple[str, str, str]]] = {}
    for key, folder in places.items():
        try:
            rows = read_manifest(folder / MANIFEST_FILE, SAMPLES)
        except MissingArtifactError:
            continue
        relative = folder.relative_to(graph.workspace.root).as_posix()
        drawn[names[key]] = {
            row["id"]: (row["caption"], f"{relative}/{row['file']}", row["prompt_id"])
            for row in rows
        }
    if not drawn:
        return [], []
    shared = set.intersection(*(set(of) for of in drawn.values()))
    first = next(iter(drawn.values()))
    found = [
        SampleRow(
            first[name][0], tuple((who, of[name][1]) for who, of in drawn.items()), first[name][2]
        )
        for name in sorted(shared)[:most]
    ]
    return list(drawn), found
