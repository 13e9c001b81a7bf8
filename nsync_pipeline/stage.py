"""What a stage is given, and what it gives back.

A stage is a function ``run(context: StageContext[ItsSettings]) -> StageResult`` in its room's
``stage.py``. It reads the artefacts of earlier stages from ``context.workspace``, writes its own
into the empty ``context.folder``, and never prints. Whoever runs it moves the folder to its place
once it is whole, and adds ``made.json``, the previews and ``SHA256SUMS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from nsync_pipeline.settings import StageSettings
from nsync_pipeline.workspace import Workspace

Settings = TypeVar("Settings", bound=StageSettings)

Figure = int | float | str


class Progress(Protocol):
    """Tells how far a stage is."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


def silent_progress(what: str, done: int, total: int) -> None:
    """A ``Progress`` that shows nothing."""


def nothing_watches() -> None:
    """A ``StageContext.checkpointed`` that nobody waits for."""


@dataclass(frozen=True)
class StageContext(Generic[Settings]):
    """One run of one stage."""

    workspace: Workspace  # whose artefacts it reads
    folder: Path  # there and empty: what it makes is written here
    settings: Settings  # all of params.yaml that reaches it
    style: str
    variant: str | None = None  # of a stage that runs once a training; `base` for the untrained
    training_seed: int | None = None  # which training of the variant
    progress: Progress = silent_progress
    checkpointed: Callable[[], None] = nothing_watches
    """Called by a training when ``live`` shows more than before; takes no time, never raises."""

    @property
    def training(self) -> tuple[str, int]:
        """Variant and training seed, of a stage that runs once a training."""
        if self.variant is None or self.training_seed is None:
            raise ValueError("this stage runs once a training: a variant and its seed are needed")
        return self.variant, self.training_seed

    @property
    def scratch(self) -> Path:
        """Where a stage keeps what it picks up from after an interruption, by kind."""
        return self.workspace.scratch()

    @property
    def live(self) -> Path:
        """Where a training keeps what can be watched while it runs."""
        variant, seed = self.training
        return self.workspace.scratch("live", self.style, variant, str(seed))


@dataclass(frozen=True)
class Preview:
    """A picture to show beside an artefact: a JPEG under 100 KB."""

    title: str
    jpeg: bytes


@dataclass(frozen=True)
class StageResult:
    """What a stage says of its artefact: the same for the same inputs, so no times and no paths."""

    figures: Mapping[str, Figure]  # e.g. {"pictures": 64, "train": 48}
    previews: tuple[Preview, ...] = ()
    leftovers: tuple[Path, ...] = ()
    """Folders of scratch that are of no use once the artefact is in its place: the runner removes
    them then."""
    by_model: bool = True  # False: no model was asked, though the stage is one that may ask
