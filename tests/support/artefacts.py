"""Artefact folders as the stages and their runner leave them, written by hand."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from nsync_pipeline.training.history import COLUMNS
from nsync_pipeline.workspace import BASE, LORA_FILE, Workspace

BASE_MODEL = {"name": "sketchbook", "revision": None}
RULES = {"lora": "none", "nsync": "orthogonal"}


def write_artefact(
    workspace: Workspace,
    folder: Path,
    plan: Mapping[str, Any],
    files: Mapping[str, str | bytes],
    figures: Mapping[str, object],
    previews: int = 1,
) -> dict[str, Any]:
    """Write ``files``, ``SHA256SUMS``, previews and ``made.json``; gives what that says."""
    sums = ""
    for name, content in sorted(files.items()):
        data = content.encode() if isinstance(content, str) else content
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        sums += f"{hashlib.sha256(data).hexdigest()}  {name}\n"
    (folder / "SHA256SUMS").write_text(sums)
    names = [f"preview-{number}.jpg" for number in range(1, previews + 1)]
    for name in names:
        (folder / name).write_bytes(jpeg())
    made = {
        **plan,
        "content": hashlib.sha256(sums.encode()).hexdigest(),
        "figures": dict(figures),
        "previews": [{"title": name, "file": name} for name in names],
    }
    (folder / "made.json").write_text(json.dumps(made))
    return made


def plan_of(
    stage: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    variant: str | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """What ``made.json`` will say; what is known only when it is made is still empty."""
    return {
        "stage": stage, "recipe": 1, "engine": "0.2.0", "style": "ink", "variant": variant,
        "training_seed": seed, "settings": dict(settings), "inputs": dict(inputs),
        "content": "", "figures": {}, "previews": [],
    }  # fmt: skip


def training_plan(variant: str, seed: int = 0, steps: int = 3) -> dict[str, Any]:
    training = {
        "update_rule": RULES.get(variant, "orthogonal"), "steps": steps, "max_gradient_norm": 1.0,
        "lora": {"rank": 8, "targets": None},
    }  # fmt: skip
    settings = {"seed": 0, "base_model": BASE_MODEL, "training": training}
    sets = {
        f"data/ink/{name}": f"{name:0<64}" for name in ("style_set", "captions", "negative_set")
    }
    return plan_of("training", settings, sets, variant, seed)


def history_csv(steps: int) -> str:
    """Two losses, two norms and two more a step."""
    lines = [",".join(COLUMNS)]
    for step in range(1, steps + 1):
        row = {
            "step": step, "loss_positive": 1 / step, "loss_negative": 0.5, "norm_positive": 3.0,
            "norm_refined": 2.0, "share_removed": 0.25, "learning_rate": 0.001,
        }  # fmt: skip
        lines.append(",".join(str(row.get(column, "")) for column in COLUMNS))
    return "\n".join(lines) + "\n"


def train(
    workspace: Workspace, variant: str, seed: int = 0, steps: int = 3, weights: str | None = None
) -> dict[str, Any]:
    plan = training_plan(variant, seed, steps)
    watch = {"watch": {"every": 2}}
    told = {
        "settings": {**plan["settings"]["training"], **watch},
        "held_out_losses": {"0": 0.75, str(steps): 0.5},
        "looks": {str(steps): {"style_margin": 0.125, "standard_error": 0.01, "pictures": 4}},
    }
    files: dict[str, str | bytes] = {
        LORA_FILE: weights or f"weights of {variant} {seed}",
        "history.csv": history_csv(steps),
        "training.json": json.dumps(told),
        f"looks/{steps:08d}.jpg": jpeg(),
    }
    figures = {"held_out_loss": 0.5, "steps": steps, "warnings": "collapse"}
    folder = workspace.model("ink", variant, seed)
    return write_artefact(workspace, folder, plan, files, figures, previews=2)


def draw(workspace: Workspace, variant: str, seed: int = 0) -> dict[str, Any]:
    """The samples of a training, or of the base."""
    settings = {"seed": 0, "base_model": BASE_MODEL, "generation": {"sampler": {"steps": 20}}}
    inputs = {"data/ink/style_set": "0" * 64}
    folder = workspace.samples("ink", variant, seed)
    if variant == BASE:
        plan = plan_of("base_generation", settings, inputs)
    else:
        inputs |= digests(workspace, workspace.model("ink", variant, seed))
        plan = plan_of("generation", settings, inputs, variant, seed)
    return write_artefact(workspace, folder, plan, {"manifest.parquet": variant}, {"pictures": 8})


def evaluate(
    workspace: Workspace, runs: Sequence[tuple[str, int]], margin: float = 0.25
) -> dict[str, Any]:
    drawn = [workspace.samples("ink", variant, seed) for variant, seed in runs]
    inputs = {"data/ink/style_set": f"{'style_set':0<64}"}
    inputs |= digests(workspace, workspace.samples("ink", BASE), *drawn)
    trainings: dict[str, dict[str, Any]] = {}
    for variant, seed in runs:
        trainings.setdefault(variant, {})[str(seed)] = {"style_margin": margin}
    scores = {
        "base": {"style_margin": 0.0},
        "variants": {variant: {"style_margin": margin} for variant in trainings},
        "trainings": trainings,
    }
    variants, seeds = list(trainings), sorted({seed for _, seed in runs})
    settings = {"seed": 0, "variants": variants, "training_seeds": seeds, "evaluation": {"kid": 1}}
    plan = plan_of("evaluation", settings, inputs)
    files = {"metrics.json": json.dumps(scores), "evaluation.json": "{}"}
    return write_artefact(
        workspace, workspace.evaluation("ink"), plan, files, {"verdict": "better"}
    )


def report(workspace: Workspace) -> dict[str, Any]:
    models = [workspace.model("ink", variant, 0) for variant in RULES]
    there = [model for model in models if (model / "made.json").is_file()]
    inputs = digests(workspace, *there, workspace.evaluation("ink"))  # it reads the trainings, too
    plan = plan_of("report", {"seed": 0, "report": {"rows": 8}}, inputs)
    figures = {"verdict": "better", "nsync, share of the way": 0.5}
    files = {"report.html": "<h1>ink</h1>"}
    return write_artefact(workspace, workspace.report("ink"), plan, files, figures)


def whole_style(workspace: Workspace) -> None:
    """Two trainings, what they and the base draw, an evaluation and a report."""
    for variant in RULES:
        train(workspace, variant)
        draw(workspace, variant)
    draw(workspace, BASE)
    evaluate(workspace, [(variant, 0) for variant in RULES])
    report(workspace)


def digests(workspace: Workspace, *folders: Path) -> dict[str, str]:
    """The contents of artefacts, by their paths."""
    return {
        folder.relative_to(workspace.root).as_posix(): json.loads(
            (folder / "made.json").read_bytes()
        )["content"]
        for folder in folders
    }


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, "JPEG")
    return buffer.getvalue()
