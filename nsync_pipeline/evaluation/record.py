"""What an evaluation leaves behind.

``figures/`` has a small file for each metric a person sees first, a number a variant: the table
that ``dvc metrics show`` prints. ``metrics.json`` holds all numbers: ``variants`` are means over
their trainings, ``trainings`` each by its seed, ``ways`` the variants in each way of drawing, where
there are several, ``base_by_name`` the base asked for the style's name, where it has one;
``evaluation.json`` everything the report tells: intervals, comparisons, warnings, settings;
``pictures.parquet`` a row a generated picture. All figures are rounded to six significant digits.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, TypeAdapter

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.evaluation.curves import Curves
from nsync_pipeline.files import read_json
from nsync_pipeline.metrics.bootstrap import Interval
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.scores import PictureScores, Reference
from nsync_pipeline.metrics.verdict import Comparison
from nsync_pipeline.pictures.style_pictures import StylePictures
from nsync_pipeline.workspace import BASE, BASE_BY_NAME, FIGURES_FOLDER, TrainingRun

METRICS_FILE = "metrics.json"
EVALUATION_FILE = "evaluation.json"
PICTURES_FILE = "pictures.parquet"
FIRST_METRICS = (
    "style_margin", "cmmd", "prompt_fidelity", "style_recognised", "content_recognised", "leak",
)  # fmt: skip
"""The metrics a person sees first."""

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


Figures = dict[str, Interval]  # by metric
SETS = ("base", "variants", "trainings", "ceiling", "floor")
"""The parts of a record that are figures."""


@dataclass(frozen=True)
class ByName:
    """The untrained base, asked for the style by a name that it may know."""

    name: str
    figures: Figures
    comparisons: list[Comparison]  # of each variant with it


@dataclass(frozen=True)
class EvaluationRecord:
    """What ``evaluation.json`` holds."""

    base: Figures
    variants: dict[str, Figures]  # over their trainings
    trainings: dict[str, dict[int, Figures]]  # by variant and training seed
    ceiling: Figures  # real training pictures, scored as if generated
    floor: Figures  # two random halves of the real pictures
    comparisons: list[Comparison]
    against_base: list[Comparison]
    warnings: tuple[str, ...]
    counts: dict[str, int]
    side: int
    extractors: dict[str, tuple[str, str]]  # by role: name, and SHA-256 of the weights
    rivals: tuple[str, ...]
    mmd_bandwidth: float
    copy_threshold: float
    curves: Curves | None = None  # where several ways of drawing are asked for
    by_name: ByName | None = None

    @property
    def untrained(self) -> dict[str, Figures]:
        """What nobody trained, by its name."""
        return {BASE: self.base} | ({BASE_BY_NAME: self.by_name.figures} if self.by_name else {})


def read_evaluation(folder: Path) -> EvaluationRecord:
    """Read ``evaluation.json``.

    Raises:
        MissingArtifactError: it is not there, or is of another version.
    """
    path = folder / EVALUATION_FILE
    try:
        content = read_json(path)
        sets = content.pop("sets")
        return TypeAdapter(EvaluationRecord).validate_python({**sets, **content})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingArtifactError(
            f"{path} is not there or does not fit this version: run the evaluation stage. ({error})"
        ) from error


def write_evaluation(
    folder: Path, record: EvaluationRecord, pictures: Sequence[Mapping[str, Any]]
) -> None:
    """Write all files of an evaluation into the empty ``folder``; ``pictures`` are its rows."""
    content = _rounded(asdict(record))
    sets = {name: content.pop(name) for name in SETS}
    in_ways = {} if record.curves is None else {"ways": content["curves"]["variants"]}
    in_ways |= {} if record.by_name is None else {BASE_BY_NAME: content["by_name"]["figures"]}
    for late in ("curves", "by_name"):
        if content[late] is None:
            del content[late]
    _write_json(folder / METRICS_FILE, _values(sets | in_ways))
    _write_json(folder / EVALUATION_FILE, {"sets": sets, **content})
    table = pa.Table.from_pylist(list(pictures), schema=PICTURES)
    pq.write_table(table, folder / PICTURES_FILE)
    (folder / FIGURES_FOLDER).mkdir()
    shown = {**record.untrained, **record.variants, "real": record.ceiling}
    for metric in (metric for metric in FIRST_METRICS if metric in record.base):
        of_all = {name: f[metric].value for name, f in shown.items() if metric in f}
        _write_json(folder / FIGURES_FOLDER / f"{metric}.json", _rounded(of_all), sort=False)


def picture_rows(
    pictures: StylePictures,
    run: TrainingRun | None,
    values: PictureScores,
    judged: Mapping[str, Floats],
    reference: Reference,
) -> Iterator[dict[str, Any]]:
    """A row for each picture that ``run``, or the base, drew; ``judged`` are (N,) by metric."""
    for row, sample in enumerate(pictures.samples[BASE if run is None else run.name]):
        yield {
            "variant": BASE if run is None else run.variant,
            "training_seed": None if run is None else run.training_seed,
            "id": sample.id,
            "prompt_id": sample.prompt_id,
            "style_margin": _digits(values.style_margin[row]),
            "style_cosine": _digits(values.style_cosine[row]),
            "rival": reference.rival_names[values.rival[row]],
            **{metric: _digits(of_metric[row]) for metric, of_metric in judged.items()},
            "prompt_fidelity": _digits(values.prompt_fidelity[row]),
            "nearest_id": pictures.train[values.nearest[row]].id,
            "distance": _digits(values.distance[row]),
            "copied": bool(values.copied[row]),
        }


def _write_json(path: Path, content: Mapping[str, Any], sort: bool = True) -> None:
    text = json.dumps(content, indent=2, sort_keys=sort, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _values(content: Any) -> Any:
    """``content`` with the values alone in the place of intervals."""
    if "value" in content:
        return content["value"]
    return {key: _values(part) for key, part in content.items()}


def _rounded(content: Any) -> Any:
    if isinstance(content, BaseModel):  # settings stay as they were written
        return content.model_dump(mode="json")
    if isinstance(content, dict):
        return {str(key): _rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return _digits(content) if isinstance(content, float) else content


def _digits(value: float) -> float:
    """Six significant digits: what summing in another order changes is beyond them."""
    return float(f"{value:.6g}")
