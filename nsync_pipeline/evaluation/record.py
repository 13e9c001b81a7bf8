"""What an evaluation leaves behind.

``metrics.json`` holds plain numbers only, so that ``dvc metrics diff`` reads well: ``variants`` are
means over their trainings, ``trainings`` each by its seed;
``evaluation.json`` everything the report tells: intervals, comparisons, warnings, settings;
``pictures.parquet`` a row a generated picture; ``plots/`` tables for ``dvc plots``. All figures are
rounded to six significant digits.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.catalogue import METRICS
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.scores import Reference, SetScores
from nsync_pipeline.metrics.trainings import VariantScores
from nsync_pipeline.metrics.verdict import Comparison
from nsync_pipeline.pictures.style_pictures import StylePictures
from nsync_pipeline.workspace import BASE, TrainingRun

METRICS_FILE = "metrics.json"
EVALUATION_FILE = "evaluation.json"
PICTURES_FILE = "pictures.parquet"

PICTURES = pa.schema(
    [
        pa.field("variant", pa.string(), nullable=False),
        pa.field("training_seed", pa.int64()),  # null for the base
        pa.field("id", pa.string(), nullable=False),  # of the sample
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("style_margin", pa.float64(), nullable=False),
        pa.field("style_cosine", pa.float64(), nullable=False),
        pa.field("rival", pa.string(), nullable=False),  # the prototype it is nearest to besides
        pa.field("style_recognised", pa.float64()),  # these three: null for real pictures' styles
        pa.field("content_recognised", pa.float64()),
        pa.field("leak", pa.float64()),  # null without a confound, too
        pa.field("prompt_fidelity", pa.float64(), nullable=False),
        pa.field("nearest_id", pa.string(), nullable=False),  # of the nearest training picture
        pa.field("distance", pa.float64(), nullable=False),  # to it, between unit features
        pa.field("copied", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """One style's evaluation, whole."""

    runs: Sequence[TrainingRun]
    scores: dict[str, SetScores]  # of the base and of each training, by name
    judged: dict[str, Mapping[str, Floats]]  # of each, by metric, a value a picture
    measured: dict[str, VariantScores]  # the base, and each variant over its trainings
    ceiling: dict[str, Interval]  # real training pictures, scored as if generated
    floor: dict[str, Interval]  # two random halves of the real pictures
    comparisons: list[Comparison]
    against_base: list[Comparison]
    reference: Reference
    extractors: dict[str, tuple[str, str]]  # by role: name, and SHA-256 of the weights
    prompts: int
    side: int
    bootstrap_draws: int
    warnings: tuple[str, ...]


def write_evaluation(folder: Path, pictures: StylePictures, evaluation: Evaluation) -> None:
    """Write all files of an evaluation into the empty ``folder``."""
    sets = {name: scores.figures for name, scores in evaluation.measured.items()}
    base = sets.pop(BASE)
    trainings: dict[str, dict[str, Mapping[str, Interval]]] = {name: {} for name in sets}
    for run in evaluation.runs:
        trainings[run.variant][str(run.training_seed)] = evaluation.scores[run.name].figures
    named = {"base": base, "ceiling": evaluation.ceiling, "floor": evaluation.floor}
    values = {
        **{name: _values(figures) for name, figures in named.items()},
        "variants": {name: _values(figures) for name, figures in sets.items()},
        "trainings": {
            name: {seed: _values(figures) for seed, figures in of_seeds.items()}
            for name, of_seeds in trainings.items()
        },
    }
    _write_json(folder / METRICS_FILE, values)
    reference = evaluation.reference
    _write_json(
        folder / EVALUATION_FILE,
        {
            "sets": {
                **{name: _intervals(figures) for name, figures in named.items()},
                "variants": {name: _intervals(figures) for name, figures in sets.items()},
                "trainings": {
                    name: {seed: _intervals(figures) for seed, figures in of_seeds.items()}
                    for name, of_seeds in trainings.items()
                },
            },
            "comparisons": [_rounded(asdict(comparison)) for comparison in evaluation.comparisons],
            "against_base": [
                _rounded(asdict(comparison)) for comparison in evaluation.against_base
            ],
            "warnings": evaluation.warnings,
            "counts": {
                "train": len(reference.train.unit),
                "test": len(reference.test.unit),
                "negatives": len(pictures.negatives),
                "prompts": evaluation.prompts,
                "pictures": len(pictures.samples[BASE]),
                "trainings": len({run.training_seed for run in evaluation.runs}),
                "bootstrap_draws": evaluation.bootstrap_draws,
            },
            "side": evaluation.side,
            "extractors": evaluation.extractors,
            "rivals": reference.rival_names,
            "mmd_bandwidth": _digits(reference.bandwidth),
            "copy_threshold": _digits(reference.copy_threshold),
        },
    )
    rows = list(_picture_rows(pictures, evaluation))
    pq.write_table(pa.Table.from_pylist(rows, schema=PICTURES), folder / PICTURES_FILE)
    _write_plots(folder / "plots", {BASE: base, **sets}, rows)


@dataclass(frozen=True)
class EvaluationRecord:
    """What ``evaluation.json`` holds."""

    base: dict[str, Interval]
    variants: dict[str, dict[str, Interval]]  # over their trainings
    trainings: dict[str, dict[int, dict[str, Interval]]]  # by variant and training seed
    ceiling: dict[str, Interval]
    floor: dict[str, Interval]
    comparisons: list[Comparison]
    against_base: list[Comparison]
    warnings: tuple[str, ...]
    counts: dict[str, int]
    side: int
    extractors: dict[str, tuple[str, str]]
    rivals: tuple[str, ...]
    copy_threshold: float


def read_evaluation(folder: Path) -> EvaluationRecord:
    """Read ``evaluation.json``.

    Raises:
        MissingArtifactError: it is not there, or is of another version.
    """
    path = folder / EVALUATION_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sets = content["sets"]
        return EvaluationRecord(
            base=_read_figures(sets["base"]),
            variants={name: _read_figures(figures) for name, figures in sets["variants"].items()},
            trainings={
                name: {int(seed): _read_figures(figures) for seed, figures in of_seeds.items()}
                for name, of_seeds in sets["trainings"].items()
            },
            ceiling=_read_figures(sets["ceiling"]),
            floor=_read_figures(sets["floor"]),
            comparisons=[_read_comparison(comparison) for comparison in content["comparisons"]],
            against_base=[_read_comparison(comparison) for comparison in content["against_base"]],
            warnings=tuple(content["warnings"]),
            counts=content["counts"],
            side=content["side"],
            extractors={
                role: (str(extractor[0]), str(extractor[1]))
                for role, extractor in content["extractors"].items()
            },
            rivals=tuple(content["rivals"]),
            copy_threshold=content["copy_threshold"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingArtifactError(
            f"{path} is not there or does not fit this version: run the evaluation stage. ({error})"
        ) from error


def _read_figures(content: Mapping[str, Any]) -> dict[str, Interval]:
    return {name: Interval(**figure) for name, figure in content.items()}


def _read_comparison(content: Mapping[str, Any]) -> Comparison:
    intervals = {name: Interval(**content[name]) for name in ("style_margin", "cmmd")}
    breaks = {name: tuple(content[name]) for name in ("a_breaks", "b_breaks")}
    return Comparison(**{**content, **intervals, **breaks})


def _picture_rows(pictures: StylePictures, evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    named: dict[str, tuple[str, int | None]] = {BASE: (BASE, None)}
    named |= {run.name: (run.variant, run.training_seed) for run in evaluation.runs}
    for name, (variant, training_seed) in named.items():
        values, judged = evaluation.scores[name].pictures, evaluation.judged[name]
        for row, sample in enumerate(pictures.samples[name]):
            yield {
                "variant": variant,
                "training_seed": training_seed,
                "id": sample.id,
                "prompt_id": sample.prompt_id,
                "style_margin": _digits(values.style_margin[row]),
                "style_cosine": _digits(values.style_cosine[row]),
                "rival": evaluation.reference.rival_names[values.rival[row]],
                **{metric: _digits(of_metric[row]) for metric, of_metric in judged.items()},
                "prompt_fidelity": _digits(values.prompt_fidelity[row]),
                "nearest_id": pictures.train[values.nearest[row]].id,
                "distance": _digits(values.distance[row]),
                "copied": bool(values.copied[row]),
            }


def _write_plots(
    folder: Path, sets: Mapping[str, Mapping[str, Interval]], rows: Sequence[Mapping[str, Any]]
) -> None:
    """``summary.csv``: a row a variant. ``pictures.csv``: a row a picture, for a scatter."""
    folder.mkdir()
    metrics = [metric.name for metric in METRICS if metric.name in sets[BASE]]
    summary = [
        {"variant": name, **{m: _digits(figures[m].value) for m in metrics if m in figures}}
        for name, figures in sets.items()
    ]
    _write_csv(folder / "summary.csv", ["variant", *metrics], summary)
    columns = ["variant", "training_seed", "id", "style_margin", "prompt_fidelity", "distance"]
    _write_csv(folder / "pictures.csv", columns, [{c: row[c] for c in columns} for row in rows])


def _write_csv(path: Path, columns: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _values(figures: Mapping[str, Interval]) -> dict[str, float]:
    return {name: _digits(figure.value) for name, figure in figures.items()}


def _intervals(figures: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: _rounded(asdict(figure)) for name, figure in figures.items()}


def _rounded(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    return _digits(content) if isinstance(content, float) else content


def _digits(value: float) -> float:
    """Six significant digits: what summing in another order changes is beyond them."""
    return float(f"{value:.6g}")
