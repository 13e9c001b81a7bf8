"""What MLflow shows of a workspace, read from its artefacts and from the runs under way.

A training has a run, and so does an evaluation. What is drawn with a LoRA, and its scores, are
added to the run that trained it: MLflow's compare page shows all of ``lora`` and ``nsync`` side by
side. A run is found by the content of its artefact, whoever restored or made that.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nsync_pipeline.files import read_json
from nsync_pipeline.workspace import ABLATIONS, BASE, Workspace

ARTEFACT = "nsync.artefact"  # the tag with the digest of what a run made
MADE_OF = "nsync.inputs"  # the digest of what it is made of: finds a run that is not done yet
DVC_EXPERIMENT = "dvc.exp"  # the tag with the name of DVC's experiment
LOOKS = "looks"  # how the experiments with pictures drawn on the way end
ABLATION = "nsync.ablation"  # holds together what an ablation's last evaluation compared
NOTE = "mlflow.note.content"  # MLflow shows it as a run's description

PLACES = ("models/*/*/*", "samples/*/base", "samples/*/*/*", "evaluation/*", "reports/*")
OF_ABLATION = tuple(f"{ABLATIONS}/*/{p}" for p in ("models/*/*", "samples/*/*", "*"))
"""Where artefacts lie; the trainings first, because the others add to their runs."""

FILES = ("metrics.json", "evaluation.json", "report.html")
NAMES = {  # of a stage's pictures and figures
    "training": ("training", "result"), "evaluation": ("evaluation", "eval"),
    "generation": ("samples", "generation"), "base_generation": ("samples", "generation"),
    "report": ("report", "report"),
}  # fmt: skip
DATASETS = {"style_set": "training", "captions": "captions", "negative_set": "negatives"}
CHARTS = {
    "loss": "loss/held_out", "style_margin": "look/style_margin",
    "standard_error": "look/style_margin_error", "basis_rank": "gradient/basis_rank",
    "largest_share_removed": "gradient/share_removed_largest",
    **{n: f"optimizer/{n}" for n in ("learning_rate", "clip_scale", "loss_scale", "overflows")},
    **{n: f"system/{n}" for n in (
        "estimate_bytes", "steps_a_second", "peak_memory_gib", "cpu_utilization_percentage",
        "system_memory_usage_percentage",
    )},
}  # fmt: skip

Said = Mapping[str, Any]
"""What a ``made.json`` says, or a ``run.json``: the same of an artefact that is being made."""


@dataclass(frozen=True)
class Run:
    """What an artefact, or a training or evaluation under way, says of one MLflow run."""

    experiment: str
    name: str
    match: Mapping[str, str]  # tags, each of which finds the run alone; the surest first
    tags: Mapping[str, str]
    started: int  # milliseconds since 1970
    ended: int  # or when it was last heard of
    status: str | None  # None: the run is another's, and this only adds to it
    mark: Mapping[str, str]  # the tag by which the run is known to have all of this
    files: Mapping[str, Path]  # by the name MLflow shows
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[tuple[str, int], float] = field(default_factory=dict)  # by name and step
    datasets: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # path: digest, context
    looks: Mapping[int, Path] = field(default_factory=dict)  # pictures by step
    parent: Mapping[str, str] = field(default_factory=dict)  # the tags that find its parent's run
    model: "Source | None" = None  # a training whose weights are logged as a model


@dataclass(frozen=True)
class Source:
    """An artefact, or what is being made or was cut off."""

    workspace: Workspace  # of the ablation, where it is of one
    folder: Path
    said: Said
    status: str = "FINISHED"

    @property
    def stage(self) -> str:
        return str(self.said["stage"])

    @property
    def record(self) -> Said:
        """The run.json of its making; empty where that was not here."""
        record = read_said(live_folder(self.workspace, self.said) / "run.json")
        return record if record and made_of(record) == made_of(self.said) else {}

    def needs(self, *stages: str) -> "Iterator[Source]":
        """The artefacts of these stages that this was made from, where they are still there."""
        for path, digest in self.said["inputs"].items():
            made = read_said(self.workspace.root / path / "made.json")
            if made and made["stage"] in stages and made["content"] == digest:
                yield Source(self.workspace, self.workspace.root / path, made)

    def runs(self) -> "Iterator[Run]":
        """Raises ``OSError``, ``ValueError`` or ``KeyError`` where it is damaged."""
        if self.stage == "training":
            yield (training := _training(self))
            yield from _looks(self, training)
        elif self.stage == "evaluation":
            yield from _evaluation(self)
        else:
            section = NAMES[self.stage][1]  # its settings: tags, because params never change
            tags = flat({section: self.said["settings"].get(section, {})})
            of = {"generation": "training", "report": "evaluation"}.get(self.stage)
            for owner in [self] if of is None else self.needs(of):
                yield _added(owner, self, tags, self.said["figures"])


def sources(workspace: Workspace) -> Iterator[Source]:
    """All that can be told, first of the workspace, then of its ablations."""
    ablation = Workspace(workspace.root, of_ablation=True)
    for place, patterns in ((Workspace(workspace.root), PLACES), (ablation, OF_ABLATION)):
        for file in (f for p in patterns for f in sorted(place.root.glob(f"{p}/made.json"))):
            said = read_said(file)
            hidden = any(part.startswith(".") for part in file.relative_to(place.root).parts)
            if said and said["stage"] in NAMES and not hidden:  # or it is being written
                yield Source(place, file.parent, said)
        for file in sorted(place.scratch("live").rglob("run.json")):
            said = read_said(file)
            if said and said.get("status") != "FINISHED":
                unsaid = "RUNNING" if _is_alive(place, said) else "KILLED"
                yield Source(place, file.parent, said, said.get("status", unsaid))


def read_said(file: Path) -> Said | None:
    """A ``made.json`` or ``run.json``; None where there is none that can be read."""
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("stage"), str) else None


def made_of(said: Said) -> str:
    """A digest of all that the artefact is made of."""
    names = ("stage", "recipe", "style", "variant", "training_seed", "settings", "inputs")
    text = json.dumps([said.get(name) for name in names], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def live_folder(workspace: Workspace, said: Said) -> Path:
    """Where what can be watched of it lies while it is made."""
    run = (said["variant"], str(said["training_seed"])) if said["variant"] else (said["stage"],)
    return workspace.scratch("live", said["style"], *run)


def life(workspace: Workspace, said: Said) -> FileLock:
    """Held while it is made: the kernel lets go of it when its process ends, however it ends."""
    return FileLock(f"{live_folder(workspace, said)}.lock")


def _is_alive(workspace: Workspace, said: Said) -> bool:
    try:  # not at once: another process may be asking the same this instant
        life(workspace, said).acquire(timeout=0.1, poll_interval=0.02).lock.release()
    except Timeout:
        return True
    return False


def experiment_of(workspace: Workspace, style: str) -> str:
    """An ablation's runs are an experiment of their own: all of it is to be compared."""
    return f"nsync/{style}/ablation" if workspace.of_ablation else f"nsync/{style}"


def ablation_group(evaluation: Said) -> str:
    """The value of the tag ``ABLATION``, by the ``made.json`` of the ablation's evaluation."""
    return str(evaluation["content"])[:8]


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """``{"training": {"steps": 5}}`` as ``{"training.steps": "5"}``; others than texts are JSON."""
    leaves: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return leaves


def _own(source: Source) -> Run:
    """The run that the source opens; that of the base is nobody's, and found by its name."""
    said, stage, record = source.said, source.stage.removeprefix("base_"), source.record
    drawn = next(source.needs("base_generation"), source)  # by it an evaluation knows the base
    base = drawn.said["settings"].get("base_model") or {}
    variant = said["variant"] or (BASE if stage == "generation" else None)
    known = {
        "style": said["style"], "variant": variant, "training_seed": said["training_seed"],
        "rule": said["settings"].get("training", {}).get("update_rule"),
        "base": "@".join(base[part] for part in ("name", "revision") if base.get(part)) or None,
    }  # fmt: skip
    name = f"{variant}-{said['training_seed']}" if stage == "training" else variant or stage
    experiment = record.get("tags", {}).get(DVC_EXPERIMENT)  # two of one training differ in name
    note = ", ".join(f"{key} `{value}`" for key, value in known.items() if value is not None)
    tags = {
        **known, "stage": stage, NOTE: f"{stage.capitalize()}: {note}",
        "mlflow.source.name": f"nsync run {source.stage}", "mlflow.source.type": "LOCAL",
        **{k: v for k, v in said.get("figures", {}).items() if isinstance(v, str)},
        **record.get("tags", {}),
    }  # fmt: skip
    match, mark, content = {MADE_OF: made_of(said)}, {}, said.get("content")
    if content:
        mark = {f"mlflow.nsync.{source.stage}": content + match[MADE_OF]}  # its pages hide it
        match = {ARTEFACT: content, **match}
    if source.stage == "base_generation":
        match = {ARTEFACT: f"base:{known['base']}".replace("'", "")}  # it is searched in quotes
    last = max(file.stat().st_mtime_ns for file in source.folder.iterdir()) // 1_000_000
    ended, pictures = record.get("ended", last), NAMES[source.stage][0]
    files = {name: source.folder / name for name in FILES if (source.folder / name).is_file()}
    for number, preview in enumerate(said.get("previews", ()), start=1):  # alike for all variants
        file = f"{pictures}_{number}.jpg" if number > 1 else f"{pictures}.jpg"
        files[file] = source.folder / preview["file"]
    return Run(
        experiment=experiment_of(source.workspace, said["style"]),
        name=" · ".join(filter(None, (name, said["style"], experiment))),
        match=match,
        tags={k: str(v) for k, v in tags.items() if v is not None},
        started=record.get("started", ended),
        ended=ended,
        status=source.status,
        mark=mark,
        files=files,
    )


def _added(owner: Source, source: Source, tags: Mapping[str, str], figures: Said) -> Run:
    """What ``source`` adds to the run of another artefact."""
    run, own = _own(owner), _own(source)
    return replace(
        run,
        tags={**(run.tags if owner.stage == "base_generation" else {}), **tags},
        metrics=_figures(source, figures),
        files=own.files if source.stage != "evaluation" else {},
        status=None,
        mark=own.mark,
    )


def _figures(source: Source, figures: Said) -> dict[tuple[str, int], float]:
    prefix = NAMES[source.stage][1]
    return {(f"{prefix}/{k}", 0): v for k, v in figures.items() if not isinstance(v, str)}


def _training(source: Source) -> Run:
    said, folder, own = source.said, source.folder, _own(source)
    settings = dict(said["settings"])
    losses, looks = _rows(folder / "held_out.csv"), _rows(folder / "looks.csv")
    if said.get("content"):
        told = read_json(folder / "training.json")
        settings["training"] = {**settings["training"], **told.get("settings", {})}
        losses = [{"step": k, "loss": v} for k, v in told.get("held_out_losses", {}).items()]
        looks = [{"step": k, **scores} for k, scores in told.get("looks", {}).items()]
    history = _rows(folder / "history.csv")
    largest = settings["training"].get("max_gradient_norm")
    for row in history:  # what the refined gradient was multiplied by
        norm = float(row["norm_refined"])
        row["clip_scale"] = 1.0 if largest is None or norm <= largest else largest / norm
    machine = _rows(live_folder(source.workspace, said) / "system.csv") if source.record else []
    metrics = _figures(source, said.get("figures", {}))
    for row in (*history, *losses, *looks, *machine):
        names = {chart(column): float(v) for column, v in row.items() if v not in ("", None)}
        metrics |= {(name, int(row["step"])): value for name, value in names.items() if name}
    read = {path: DATASETS.get(path.rpartition("/")[2]) for path in said["inputs"]}
    unread = (None, "negatives" if own.tags.get("rule") == "none" else None)
    return replace(
        own,
        params=flat(settings | {name: said[name] for name in ("variant", "training_seed")}),
        metrics=metrics,
        datasets={p: (said["inputs"][p], of) for p, of in read.items() if of and of not in unread},
        model=source if said.get("content") else None,
    )


def _looks(source: Source, training: Run) -> Iterator[Run]:
    """A run in an experiment of its own: above a picture the page shows all of its run's params."""
    looks = {int(path.stem): path for path in sorted(source.folder.glob("looks/*.jpg"))}
    if looks:
        few = {name: training.params[name] for name in ("variant", "training_seed")}
        yield replace(
            training,
            experiment=f"{training.experiment}/{LOOKS}",
            params=few,
            metrics={k: v for k, v in training.metrics.items() if k[0].startswith("look/")},
            datasets={},
            files={},
            looks=looks,
            model=None,
        )


def _evaluation(source: Source) -> Iterator[Run]:
    said = source.said
    sets = {path: (d, "evaluation") for path, d in said["inputs"].items() if "style_set" in path}
    own = replace(_own(source), params=flat(said["settings"]), datasets=sets)
    if not said.get("content"):
        yield own
        return
    scores = read_json(source.folder / "metrics.json")
    group = {ABLATION: ablation_group(said)} if source.workspace.of_ablation else {}
    note = f"{own.tags[NOTE]}\n\n{scores_table({BASE: scores[BASE], **scores['variants']})}"
    yield replace(own, tags={**own.tags, **group, NOTE: note})
    for drawn in source.needs("base_generation"):
        yield _added(drawn, source, group, scores[BASE])
    models = [model for drawn in source.needs("generation") for model in drawn.needs("training")]
    above = own.match if source.workspace.of_ablation else {}
    parents: dict[str, Mapping[str, str]] = {}  # by variant
    for model in models:
        variant, seed = model.said["variant"], str(model.said["training_seed"])
        of_seeds = scores["trainings"][variant]
        if len(of_seeds) > 1 and variant not in parents:
            means = _variant(model, source, scores["variants"][variant])
            parents[variant] = means.match
            yield replace(means, tags={**means.tags, **group}, parent=above)
        added = _added(model, source, group, of_seeds[seed])
        yield replace(added, parent=parents.get(variant, above))


def _variant(model: Source, evaluation: Source, means: Said) -> Run:
    """The run above those of a variant's trainings, with the means of their figures."""
    run, seedless = _own(model), made_of({**model.said, "training_seed": None})
    said, hidden = model.said, ("training_seed", NOTE, "warnings", "dvc.stage", "dagster.run_id")
    return replace(
        run,
        name=f"{said['variant']} · {said['style']}",
        match={ARTEFACT: f"variant:{seedless}"},
        tags={k: v for k, v in run.tags.items() if k not in hidden} | {"stage": "variant"},
        metrics=_figures(evaluation, means),
        files={},
        status=None,
        mark={"mlflow.nsync.variant": str(evaluation.said["content"])},
    )


def scores_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A row a metric, a column a variant, as Markdown."""
    rows = [["", *scores], ["---"] * (1 + len(scores))]
    for metric in sorted({metric for figures in scores.values() for metric in figures}):
        cells = [figures.get(metric) for figures in scores.values()]
        rows.append([metric, *("" if cell is None else f"{cell:.4g}" for cell in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def chart(column: str) -> str | None:
    """The name MLflow shows a figure of a training by; None for what is none."""
    if column in CHARTS:
        return CHARTS[column]
    if column.startswith("loss_"):
        return f"loss/{column.removeprefix('loss_')}"
    return f"gradient/{column}" if column.startswith(("norm_", "cosine_", "share_")) else None
