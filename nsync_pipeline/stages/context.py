"""What a stage is given, and what it gives back.

A stage is a function ``run(context: StageContext) -> StageResult``. It reads the artefacts of
earlier stages from ``context.workspace``, writes its own whole into its own folder there, and never
prints: what happens meanwhile goes to ``context.log`` (figures) and ``context.progress``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nsync_pipeline.artifacts import Workspace
from nsync_pipeline.params import Params


class RunLog(Protocol):
    """Where the figures of a run go; no call waits for a server, and none raises."""

    def params(self, values: Mapping[str, str | int | float | bool | None]) -> None:
        """Settings, by flat dotted names."""
        ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Figures, at a step where they belong to one."""
        ...

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file to keep with the run."""
        ...

    def picture(self, path: Path, name: str, step: int) -> None:
        """A picture of a step, one of a series called ``name``."""
        ...

    def dataset(self, name: str, path: Path, context: str) -> None:
        """A picture set the run reads; ``context`` is its role: training, negatives, evaluation."""
        ...


class Progress(Protocol):
    """Tells how far a stage is."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


class SilentLog:
    """A ``RunLog`` that keeps nothing."""

    def params(self, values: Mapping[str, str | int | float | bool | None]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def picture(self, path: Path, name: str, step: int) -> None: ...

    def dataset(self, name: str, path: Path, context: str) -> None: ...


def silent_progress(what: str, done: int, total: int) -> None:
    """A ``Progress`` that shows nothing."""


@dataclass(frozen=True)
class StageContext:
    """One run of one stage."""

    workspace: Workspace
    params: Params
    style: str
    variant: str | None = None  # for stages that run once a training; `base` where that is allowed
    log: RunLog = field(default_factory=SilentLog)
    progress: Progress = silent_progress
    training_seed: int = 0  # which training of the variant


@dataclass(frozen=True)
class Preview:
    """A picture to show beside an artefact: a JPEG under 100 KB."""

    title: str
    jpeg: bytes


@dataclass(frozen=True)
class StageResult:
    """What a stage says of its artefact: the same for the same inputs, so no times and no paths."""

    figures: Mapping[str, int | float | str]  # e.g. {"pictures": 64, "train": 48}
    previews: tuple[Preview, ...] = ()
