"""What MLflow shows of a workspace, read from its artefacts and from the runs under way.

Nothing is sent from here. A training has a run of its own, and so does an evaluation. What is drawn
with a LoRA, and what the evaluation says of it, is added to the run that trained it, so that
MLflow's compare page shows losses, scores and pictures of ``lora`` and ``nsync`` side by side. A
run is found by the content of its artefact, so a LoRA that DVC restored or another machine trained
finds its run, too.
"""

import csv
import hashlib
import json
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nsync_pipeline.tracking.live import Said, live_folder, live_status, made_of, read_said
from nsync_pipeline.workspace import ABLATIONS, BASE, EMBEDDINGS_FILE, LORA_FILE, Workspace

ARTEFACT = "nsync.artefact"
"""The tag that holds the digest of what a run made."""

MADE_OF = "nsync.inputs"
"""The tag that holds the digest of what it is made of: it finds a run that is not done yet."""

ABLATION = "nsync.ablation"
"""The tag that holds together the runs that an ablation's last evaluation compared."""

NOTE = "mlflow.note.content"
"""The tag MLflow shows as a run's description."""

PLACES = ("models/*/*/*", "samples/*/base", "samples/*/*/*", "evaluation/*", "reports/*")
OF_ABLATION = tuple(f"{ABLATIONS}/*/{p}" for p in ("models/*/*", "samples/*/*", "*"))
"""Where artefacts lie; the trainings first, because the others add to their runs."""

DATASETS = {"style_set": "training", "captions": "captions", "negative_set": "negatives"}
"""What a data set is to a training."""

GROUPS = {
    "loss": "loss/", "norm": "gradient/norm_", "cosine": "gradient/cosine_",
    "share": "gradient/share_",
}  # fmt: skip
"""First words of the figures of a training, and the chart group MLflow shows them in."""

GROUPED = {
    "learning_rate": "optimizer/learning_rate", "clip_scale": "optimizer/clip_scale",
    "loss_scale": "optimizer/loss_scale", "overflows": "optimizer/overflows",
    "largest_share_removed": "gradient/share_removed_largest",
    "basis_rank": "gradient/basis_rank", "estimate_bytes": "system/estimate_bytes",
    "steps_a_second": "system/steps_a_second", "peak_memory_gib": "system/peak_memory_gib",
    "loss": "loss/held_out", "style_margin": "look/style_margin",
    "standard_error": "look/style_margin_error",
}  # fmt: skip
"""Figures of a training whose first word says nothing of their group."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A value of a metric."""

    name: str
    value: float
    step: int = 0
    after: int | None = None  # milliseconds after the run's start; None: a figure of the whole


@dataclass(frozen=True)
class Part:
    """What an artefact, or a run under way, says of one MLflow run."""

    experiment: str
    name: str
    match: Mapping[str, str]  # tags, each of which finds the run alone; the surest first
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    datasets: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # path: digest, context
    files: Mapping[str, Path] = field(default_factory=dict)  # by the name MLflow shows
    looks: Mapping[int, Path] = field(default_factory=dict)  # pictures by step
    status: str | None = None  # None: the run is another's, and this only adds to it
    started: int | None = None  # milliseconds since 1970
    ended: int | None = None


@dataclass(frozen=True)
class Source:
    """An artefact, or a run under way or cut off."""

    workspace: Workspace  # of the ablation, where it is of one
    folder: Path
    said: Said  # its made.json or run.json
    status: str = "FINISHED"

    @property
    def is_artefact(self) -> bool:
        return bool(self.said.get("content"))

    @property
    def key(self) -> str:
        return self.folder.relative_to(self.workspace.root).as_posix()

    @property
    def experiment(self) -> str:
        return experiment_of(self.workspace, self.said["style"])

    @property
    def record(self) -> Said:
        """The run.json of the run that made it; empty where that was not here."""
        record = read_said(live_folder(self.workspace, self.said) / "run.json")
        return record if record and made_of(record) == made_of(self.said) else {}

    def parts(self) -> list[Part]:
        """By run; raises ``OSError``, ``ValueError`` or ``KeyError`` where it is damaged."""
        return list(PARTS[self.said["stage"]](self))

    def signature(self) -> str:
        """Another one where there is something new to say."""
        seen: list[object] = [self.said, self.status]
        if self.said["stage"] != "training":  # what it was made from may be there or not
            needs = (self.workspace.root / path / "made.json" for path in self.said["inputs"])
            seen += [(read_said(need) or {}).get("content") for need in needs]
        elif self.is_artefact:
            seen.append(self.record)
        else:
            seen += sorted((str(p), p.stat().st_size) for p in self.folder.rglob("*.*"))
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:32]

    def made_from(self, folder: Path) -> "Source | None":
        """The artefact in ``folder``, where it is the one that this was made from."""
        need = Source(self.workspace, folder, read_said(folder / "made.json") or {})
        digest = self.said["inputs"].get(need.key)
        return need if digest and digest == need.said.get("content") else None

    def digest(self, *names: str) -> str:
        """Of its content's files with these names; of all of it where there are none."""
        lines = (self.folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        digests = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        return "+".join(digests[n] for n in names if n in digests) or str(self.said["content"])

    def previews(self, name: str) -> dict[str, Path]:
        """Outside of folders and not by the variant: so MLflow shows two runs' side by side."""
        files = [self.folder / preview["file"] for preview in self.said.get("previews", ())]
        return {f"{name}{f'_{n}' if n > 1 else ''}.jpg": f for n, f in enumerate(files, start=1)}

    def figures(self, prefix: str) -> list[Figure]:
        figures = self.said.get("figures", {})  # MLflow takes no commas in names
        names = [name for name, value in figures.items() if not isinstance(value, str)]
        return [Figure(prefix + name.replace(",", ""), float(figures[name])) for name in names]


def sources(workspace: Workspace) -> Iterator[Source]:
    """All that can be told of the workspace and its ablations, artefacts first."""
    main, own = Workspace(workspace.root), Workspace(workspace.root, of_ablation=True)
    for place, patterns in ((main, PLACES), (own, OF_ABLATION)):
        for file in (f for p in patterns for f in sorted(place.root.glob(f"{p}/made.json"))):
            said = read_said(file)
            hidden = any(part.startswith(".") for part in file.relative_to(place.root).parts)
            if said and said["stage"] in PARTS and not hidden:  # or it is being written
                yield Source(place, file.parent, said)
    for place in (main, own):
        for file in sorted(place.scratch("live").rglob("run.json")):
            said = read_said(file)
            status = live_status(place, said) if said else "FINISHED"
            if said and status != "FINISHED":  # then the artefact says it all
                yield Source(place, file.parent, said, status)


def experiment_of(workspace: Workspace, style: str) -> str:
    """An ablation's runs are an experiment of their own: all of it is to be compared."""
    return f"nsync/{style}/ablation" if workspace.of_ablation else f"nsync/{style}"


def ablation_group(evaluation: Said) -> str:
    """The value of the tag ``ABLATION``, by the ``made.json`` of the ablation's evaluation."""
    return str(evaluation["content"])[:8]


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    """``{"training": {"steps": 5}}`` as ``{"training.steps": 5}``; a list becomes one text."""
    leaves: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            leaves[f"{prefix}{key}"] = ", ".join(str(item) for item in value)
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _texts(settings: Mapping[str, object]) -> dict[str, str]:
    return {k: "null" if v is None else str(v) for k, v in flat(settings).items()}


def _training(source: Source) -> Iterator[Part]:
    said, folder = source.said, source.folder
    settings = dict(said["settings"])
    losses, looks = _rows(folder / "held_out.csv"), _rows(folder / "looks.csv")
    if source.is_artefact:
        told = json.loads((folder / "training.json").read_bytes())
        settings["training"] = {**settings["training"], **told.get("settings", {})}
        losses = [{"step": k, "loss": v} for k, v in told.get("held_out_losses", {}).items()]
        looks = [{"step": k, **scores} for k, scores in told.get("looks", {}).items()]
    largest = settings["training"].get("max_gradient_norm")
    history = [
        {**row, "clip_scale": _clip_scale(float(row["norm_refined"]), largest)}
        for row in _rows(folder / "history.csv")
    ]
    machine = _rows(live_folder(source.workspace, said) / "system.csv") if source.record else []
    training = {"variant": said["variant"], "training_seed": said["training_seed"]}
    kinds = {path: path.rpartition("/")[2] for path in said["inputs"]}
    own = _own(source)
    unread = "negative_set" if own.tags.get("rule") == "none" else ""
    yield replace(
        own,
        params=_texts(settings | training),
        figures=[
            *source.figures("result/"),
            *_steps([*history, *losses, *looks, *machine], machine),
        ],
        datasets={
            path: (said["inputs"][path], DATASETS[kind])
            for path, kind in kinds.items()
            if kind in DATASETS and kind != unread
        },
        files=source.previews("training"),
        looks={int(path.stem): path for path in sorted(folder.glob("looks/*.jpg"))},
    )


def _evaluation(source: Source) -> Iterator[Part]:
    workspace, said, folder, style = (
        source.workspace, source.said, source.folder, source.said["style"],
    )  # fmt: skip
    base = source.made_from(workspace.samples(style, BASE))
    name = None if base is None else _base_name(base)
    sets = {path: (d, "evaluation") for path, d in said["inputs"].items() if "style_set" in path}
    own = replace(_own(source, name), params=_texts(said["settings"]), datasets=sets)
    if not source.is_artefact:
        yield own
        return
    scores = json.loads((folder / "metrics.json").read_bytes())
    group = {ABLATION: ablation_group(said)} if workspace.of_ablation else {}
    table = scores_table({BASE: scores[BASE], **scores["variants"]})
    files = {file.name: file for file in sorted(folder.glob("*.json")) if file.name != "made.json"}
    yield replace(
        own,
        tags={**own.tags, **group, NOTE: f"{own.tags[NOTE]}\n\n{table}"},
        files={**source.previews("evaluation"), **files},
    )
    if base is not None:
        yield _added(base, group, _scores(scores[BASE]))
    for variant, of_seeds in scores["trainings"].items():
        for seed, figures in of_seeds.items():
            samples = source.made_from(workspace.samples(style, variant, seed))
            model = samples and samples.made_from(workspace.model(style, variant, seed))
            if model is not None:
                yield _added(model, group, _scores(figures))


def _samples(source: Source) -> Iterator[Part]:
    said, run = source.said, source
    if said["variant"] not in (None, BASE):
        model = source.workspace.model(said["style"], said["variant"], said["training_seed"])
        found = source.made_from(model)
        if found is None:
            return
        run = found
    yield _added(run, _section(source, "generation"), source.figures("generation/"),
                 source.previews("samples"))  # fmt: skip


def _report(source: Source) -> Iterator[Part]:
    evaluation = source.made_from(source.workspace.evaluation(source.said["style"]))
    if evaluation is not None:
        files = {"report.html": source.folder / "report.html", **source.previews("report")}
        yield _added(evaluation, _section(source, "report"), source.figures("report/"), files)


PARTS: dict[str, Callable[[Source], Iterator[Part]]] = {
    "training": _training, "generation": _samples, "base_generation": _samples,
    "evaluation": _evaluation, "report": _report,
}  # fmt: skip


def _section(source: Source, name: str) -> dict[str, str]:
    """A stage's own settings: tags of another's run, because params never change again."""
    return _texts({name: source.said["settings"].get(name, {})})


def _own(source: Source, base: str | None = None) -> Part:
    """The run that the source opens; that of the base is nobody's, and found by its name."""
    said, record, stage = source.said, source.record, source.said["stage"]
    settings = said["settings"]
    base = base or _base_name(source)
    of = {"training": f"{said['variant']}-{said['training_seed']}", "base_generation": BASE}
    rule = settings.get("training", {}).get("update_rule")
    note = f"{stage.removeprefix('base_').capitalize()} of style **{said['style']}**"
    note += f", **{of[stage]}**" if stage in of else ""
    note += f", update rule `{rule}`" if rule else ""
    note += f", on base `{base}`." if base else "."
    known = {
        "style": said["style"], "variant": said["variant"] or (BASE if stage in of else None),
        "stage": stage.removeprefix("base_"), "rule": rule, "base": base,
        "training_seed": said["training_seed"] if stage == "training" else None,
        "mlflow.source.name": f"nsync run {stage}", "mlflow.source.type": "LOCAL", NOTE: note,
    }  # fmt: skip
    texts = {k: v for k, v in said.get("figures", {}).items() if isinstance(v, str)}
    tags = {**known, **texts, **record.get("tags", {})}
    match, ended = {MADE_OF: made_of(said)}, record.get("ended")
    if stage == "base_generation":
        match = {ARTEFACT: f"base:{base}".replace("'", "")}  # it goes into a quoted search
    elif source.is_artefact:
        content = source.digest(LORA_FILE, EMBEDDINGS_FILE, "metrics.json")
        match = {ARTEFACT: content, **match}
    if source.status != "RUNNING":
        ended = ended or max(p.stat().st_mtime_ns for p in source.folder.iterdir()) // 1_000_000
    return Part(
        source.experiment,
        f"{of.get(stage, stage)} · {said['style']}",
        match,
        {k: str(v) for k, v in tags.items() if v is not None},
        status=source.status,
        started=record.get("started", ended),
        ended=ended,
    )  # fmt: skip


def _added(
    source: Source,
    tags: Mapping[str, str],
    figures: Sequence[Figure],
    files: Mapping[str, Path] | None = None,
) -> Part:
    """What is added to the run of ``source``, an artefact; the note is an evaluation's own."""
    own = _own(source)
    kept = {k: v for k, v in own.tags.items() if k != NOTE or source.said["stage"] != "evaluation"}
    files = files or {}
    return replace(own, tags={**kept, **tags}, figures=figures, files=files, status=None)


def _base_name(source: Source) -> str | None:
    base = source.said["settings"].get("base_model")
    if base is None:
        return None
    revision = base.get("revision")
    return f"{base['name']}@{revision}" if revision else str(base["name"])


def _scores(figures: Mapping[str, float]) -> list[Figure]:
    return [Figure(f"eval/{metric}", float(value)) for metric, value in figures.items()]


def scores_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A row a metric, a column a variant, as Markdown."""
    metrics = sorted({metric for figures in scores.values() for metric in figures})
    rows = [["", *scores], ["---"] * (1 + len(scores))]
    for metric in metrics:
        cells = [figures.get(metric) for figures in scores.values()]
        rows.append([metric, *("" if cell is None else f"{cell:.4g}" for cell in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows(file: Path) -> list[Row]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _steps(rows: Iterable[Row], machine: Iterable[Row]) -> Iterator[Figure]:
    """The figures of ``rows``, timed by the work done until then at the machine's speed.

    The times are the same whenever they are asked for: a figure sent twice is one to MLflow.
    """
    steps, times = [0], [0.0]  # milliseconds
    for row in machine:
        if row["steps_a_second"] and int(row["step"]) > steps[-1]:
            pause = 1000 / float(row["steps_a_second"])
            times.append(times[-1] + pause * (int(row["step"]) - steps[-1]))
            steps.append(int(row["step"]))
    for row in rows:
        step = int(row["step"])
        for column, cell in row.items():
            name = grouped(column)
            if name and cell not in ("", None):
                yield Figure(name, float(cell), step, round(times[bisect(steps, step) - 1]))


def grouped(column: str) -> str | None:
    """The name MLflow shows a figure of a training by; None for what is none."""
    first, _, rest = column.partition("_")
    return GROUPED.get(column) or (f"{GROUPS[first]}{rest}" if first in GROUPS else None)


def _clip_scale(norm: float, largest: float | None) -> float:
    """What the refined gradient was multiplied by."""
    return 1.0 if largest is None or norm <= largest else largest / norm
