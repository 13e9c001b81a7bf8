"""Diagnoses of a table's trainings: carried out, kept a small file each, and told on a page."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.evidence.matrix import (
    DRAWINGS,
    GUIDANCE,
    ORDINARY,
    SETS,
    Scale,
    Table,
    Trial,
    digest,
    settings,
)
from benchmarks.evidence.plots import INK, LINES, plain
from benchmarks.evidence.tables import markdown, rate
from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.files import write_whole

RECIPE = 1  # raised when a diagnosis would come out otherwise from the same
WAYS = (ORDINARY, "s_1_5", "be_0_5", "d_1_5")
"""The ways of drawing whose part in a step is taken, by their names in ``matrix.DRAWINGS``."""
PICTURES = 32
PAGE, FOLDER = "diagnosis.md", "diagnosis"


@dataclass(frozen=True)
class Diagnosis:
    """What was found of one training, at each share of the schedule."""

    style: str
    set: str
    variant: str
    seed: int
    settings: str  # the digest of what was asked for, and of the recipe
    points: list[dict[str, Any]]  # of ``diagnosis.AtNoise``

    def mean(self, name: str, way: str | None = None) -> float | None:
        """Over the shares of the schedule; None where it is not defined at some."""
        found = [point[name] if way is None else point[name].get(way) for point in self.points]
        return None if any(value is None for value in found) else fmean(found)


def trainings_of(table: Table) -> list[Trial]:
    """Each training of ``table`` once, however many ways it is drawn in."""
    return list(dict.fromkeys(replace(trial, drawing=ORDINARY) for trial in table.trials()))


def diagnosis_file(results: Path, trial: Trial) -> Path:
    return results / FOLDER / trial.style / trial.set / trial.variant / f"{trial.seed}.json"


def read_diagnosis(results: Path, trial: Trial, scale: Scale) -> Diagnosis | None:
    """None where there is none, or one of other settings."""
    file = diagnosis_file(results, trial)
    if not file.is_file():
        return None
    found = Diagnosis(**json.loads(file.read_text(encoding="utf-8")))
    return found if found.settings == _digest(trial, scale) else None


def write_diagnosis(results: Path, trial: Trial, found: Diagnosis) -> None:
    file = diagnosis_file(results, trial)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(asdict(found), sort_keys=True, separators=(",", ":")) + "\n")


def _digest(trial: Trial, scale: Scale) -> str:
    return f"{RECIPE}-{digest(settings(trial, scale))}"


def diagnose_trial(trial: Trial, scale: Scale, folder: Path) -> Diagnosis:
    """Of the trained LoRA of ``trial``, which is trained where it is not there."""
    # Only here: what only tells of diagnoses needs no torch.
    from benchmarks.evidence.diagnosis import diagnose
    from benchmarks.evidence.trial import prepare, trained, workspace_of
    from nsync_pipeline.adaptation.textual_inversion import trained_style_word
    from nsync_pipeline.adaptation.trainables import load_trained
    from nsync_pipeline.families.loading import load_family
    from nsync_pipeline.params import parse_params
    from nsync_pipeline.stage import silent_progress

    asked = settings(trial, scale)
    params, workspace = parse_params(asked), workspace_of(folder, asked)
    prepare(workspace, params, silent_progress)
    trained(trial, asked, workspace, params, silent_progress)
    model = workspace.model(trial.style_key, trial.variant, trial.seed)
    family = load_family(params.generation.sampler.base(params.base_model))
    load_trained(family, model)
    others, sharing = shown(trial, min(PICTURES, scale.test_pictures), params.seed)
    found = diagnose(
        family,
        others,
        sharing,
        trained_style_word(model, params.style(trial.style_key).placeholder),
        {name: GuidanceConfig.model_validate(DRAWINGS[name]) for name in WAYS},
        GUIDANCE,
        params.seed,
    )
    return Diagnosis(
        trial.style, trial.set, trial.variant, trial.seed, _digest(trial, scale),
        [asdict(point) for point in found],
    )  # fmt: skip


def shown(trial: Trial, count: int, seed: int) -> Any:
    """Pictures in the style that nothing else is drawn for: without the confound, and with it."""
    from benchmarks.evidence.diagnosis import Shown
    from nsync_pipeline.sketchbook.confounds import confounded, unconfounded
    from nsync_pipeline.sketchbook.world import draw_picture

    def drawn(scenes: Any) -> Shown:
        pictures = [draw_picture(trial.style, seed, FOLDER, i, scenes) for i in range(count)]
        return Shown([one.image for one in pictures], [one.caption for one in pictures])

    confound = SETS[trial.set].confound
    if confound is None:
        return drawn(None), None
    return drawn(unconfounded(confound)), drawn(confounded(confound))


def write_diagnoses_page(results: Path, docs: Path, table: Table) -> None:
    """``diagnosis.md`` and its figures, of the diagnoses there are of ``table``."""
    there = [read_diagnosis(results, trial, table.scale) for trial in trainings_of(table)]
    found = [one for one in there if one is not None]
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    lines = [*HEAD]
    for of in table.sets:
        of_set = [one for one in found if one.set == of]
        if of_set:
            lines += _section(of, of_set, images)
    if not found:
        lines.append("There are no diagnoses yet: `python -m benchmarks.evidence diagnose`.")
    write_whole(docs / PAGE, "\n".join(lines).rstrip() + "\n")


HEAD = (
    "# Diagnosis: what of a training is bound to what its pictures share",
    "",
    *textwrap.wrap(
        "Written by `python -m benchmarks.evidence diagnose`, of the trainings of the evidence "
        "([evidence.md](evidence.md)). With `b` the frozen base's prediction, `l` that with the "
        "LoRA, `c` a styled prompt, `0` the empty one and `d(.) = l(.) - b(.)`, at pictures of the "
        "style that no training has seen, noised at 0.3, 0.6 and 0.9 of the schedule:",
        104,
    ),
    "",
    "- **cut**: the share of the base's loss that the LoRA takes away;",
    "- **bound**: `1 - cut of pictures without the confound / cut of pictures with it`: 0 where",
    "  the change is as good for either, 1 where it is of no use without the confound;",
    "- **by words**: the length of `d(c)` at a prompt without the confound over one with it, at",
    "  the same noisy picture;",
    "- **cosine** of `d(c)` and `d(0)`, and the **length** of `d(c)` over `b(c) - b(0)`;",
    "- **gain** of a way of drawing: what the LoRA adds to a step, along `d(c)`, in its lengths;",
    f"  what the prompt changes of the base has a gain of {GUIDANCE:g} in all of them.",
    "",
)


def _section(of: str, found: Sequence[Diagnosis], images: Path) -> list[str]:
    confounded = SETS[of].confound is not None
    variants = list(dict.fromkeys(one.variant for one in found))
    lines = [f"## {of.capitalize()}: {SETS[of].words}", ""]
    heads = ["method", "cut, without the confound", "cut, with it", "bound", "by words"]
    columns: list[tuple[str, str | None]] = [
        ("cut_others", None), ("cut_sharing", None), ("bound", None), ("length_by_words", None),
    ]  # fmt: skip
    if not confounded:
        heads, columns = ["method", "cut"], columns[:1]
    heads += ["cosine", "length", *(f"gain, `{way}`" for way in WAYS), "trainings"]
    columns += [("cosine", None), ("length", None), *(("gains", way) for way in WAYS)]
    rows = []
    for variant in variants:
        own = [one for one in found if one.variant == variant]
        cells = [_mean(one.mean(name, way) for one in own) for name, way in columns]
        rows.append([f"`{variant}`", *cells, str(len(own))])
    lines += ["Means over styles, seeds and shares of the schedule.", "", *markdown(heads, rows)]
    plots = {"cuts": _cuts(found, variants, confounded), "parts": _parts(found, variants)}
    for name, (figure, words) in plots.items():
        file = images / f"diagnosis_{of}_{name}.png"
        figure.savefig(file, dpi=110, metadata={"Software": None})
        lines += ["", f"![{words}](images/{file.name})", "", f"*{words}*"]
    return [*lines, ""]


def _cuts(
    found: Sequence[Diagnosis], variants: Sequence[str], confounded: bool
) -> tuple[Figure, str]:
    """A panel a style: the cut over the schedule, a colour a method."""
    styles = list(dict.fromkeys(one.style for one in found))
    figure = Figure(figsize=(3.2 * len(styles) + 0.8, 3.4), layout="constrained")
    panels = figure.subplots(1, len(styles), sharey=True, squeeze=False)[0]
    for panel, style in zip(panels, styles, strict=True):
        for number, variant in enumerate(variants):
            own = [one for one in found if (one.style, one.variant) == (style, variant)]
            if not own:
                continue
            colour = LINES[number % len(LINES)]
            for name, line in (("cut_others", "-"), ("cut_sharing", "--"))[: 1 + confounded]:
                noises = [point["noise"] for point in own[0].points]
                means = [
                    fmean(one.points[place][name] for one in own) for place in range(len(noises))
                ]
                label = variant if name == "cut_others" else None
                panel.plot(noises, means, line, color=colour, label=label, marker="o", markersize=3)
        panel.set_title(style.replace("_", " "), fontsize=10, color=INK)
        panel.set_xlabel("share of the schedule", fontsize=9)
        plain(panel, "y")
    panels[0].set_ylabel("share of the base's loss cut", fontsize=9)
    panels[-1].legend(frameon=False, fontsize=8)
    dashed = "; dashed: with the confound" if confounded else ""
    return figure, f"What the LoRA cuts of the base's loss on pictures of the style{dashed}."


def _parts(found: Sequence[Diagnosis], variants: Sequence[str]) -> tuple[Figure, str]:
    """A group a way of drawing, a bar a method: the LoRA's part in a step against content's."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(variants)
    for number, variant in enumerate(variants):
        own = [one for one in found if one.variant == variant]
        means = [fmean(value for one in own if (value := one.mean("parts", w)) is not None)
                 for w in WAYS]  # fmt: skip
        places = [place + width * (number - (len(variants) - 1) / 2) for place in range(len(WAYS))]
        panel.bar(places, means, width * 0.92, color=LINES[number % len(LINES)], label=variant)
    panel.set_xticks(range(len(WAYS)), WAYS)
    panel.set_ylabel("length against content's part", fontsize=9)
    plain(panel, "y")
    panel.legend(frameon=False, fontsize=8)
    return figure, "What the LoRA adds to a step, against what the prompt's content does."


def _mean(values: Iterable[float | None]) -> str:
    there = [value for value in values if value is not None]
    return rate(fmean(there)) if there else ""
