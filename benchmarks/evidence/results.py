"""The result files: one a trial, small, kept with the code."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.evidence.matrix import Scale, Trial, Tuning, digest, settings

RESULTS = Path(__file__).with_name("results")
REAL, TAUGHT_BY = "real", "taught_by"
"""Samples that are of no method: what was asked for in the style, and what the training saw."""


@dataclass(frozen=True)
class Result:
    """What came of one trial."""

    style: str
    set: str
    method: str
    seed: int
    rate: float
    steps: float
    """Times those of the scale."""
    drawing: str
    settings: str
    """The digest of what was asked for."""
    pictures: Mapping[str, list[float]]
    """A value a picture, in the order of the prompts: ``style_recognised`` (a probability),
    ``content_recognised`` (a share), ``leak`` (0 or 1; only of confounded sets)."""
    figures: Mapping[str, float]
    """The evaluation's figures of the set: ``cmmd``, ``style_margin``, ``prompt_fidelity``, .."""
    training: Mapping[str, float]
    """How it was trained: ``seconds`` of processor time, the summary, and ``contrast_*``."""
    made_with: Mapping[str, str]

    @property
    def trial(self) -> Trial:
        tuning = Tuning(self.rate, self.steps)
        return Trial(self.style, self.set, self.method, self.seed, tuning, self.drawing)


def result_file(root: Path, trial: Trial) -> Path:
    of_method = root / trial.style / trial.set / trial.method
    return of_method / trial.tuning.name / trial.drawing / f"{trial.seed}.json"


def sample_file(root: Path, style: str, of: str, name: str) -> Path:
    """A few pictures: of a trial's first seed, of the base, or real ones."""
    return root / style / of / f"{name.replace(' ', '_')}.jpg"


def read_result(root: Path, trial: Trial, scale: Scale) -> Result | None:
    """The kept result of ``trial``; None where there is none, or one of other settings."""
    file = result_file(root, trial)
    if not file.is_file():
        return None
    result = Result(**json.loads(file.read_text(encoding="utf-8")))
    return result if result.settings == digest(settings(trial, scale)) else None


def write_result(root: Path, result: Result) -> None:
    """Keep ``result``: whole, or not at all."""
    file = result_file(root, result.trial)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    text = json.dumps(asdict(result), sort_keys=True, separators=(",", ":"))
    # A line a part, so that a change of one shows as that.
    partial.write_text(text.replace(',"', ',\n"') + "\n", encoding="utf-8")
    partial.replace(file)
