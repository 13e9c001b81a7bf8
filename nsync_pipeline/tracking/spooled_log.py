"""A stage's log over the spool."""

import functools
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from nsync_pipeline.files import dvc_digest
from nsync_pipeline.tracking.placement import Placement
from nsync_pipeline.tracking.settings import Scalar
from nsync_pipeline.tracking.spool import SpoolWriter

logger = logging.getLogger(__name__)
P = ParamSpec("P")

GROUPS = {
    "loss": "loss", "norm": "gradient/norm", "cosine": "gradient/cosine",
    "share": "gradient/share", "look": "look",
}  # fmt: skip
"""First words of the figures of a training, and the chart group MLflow shows them in."""

GROUPED = {
    "learning_rate": "optimizer/learning_rate", "clip_scale": "optimizer/clip_scale",
    "loss_scale": "optimizer/loss_scale", "overflows": "optimizer/overflows",
    "largest_share_removed": "gradient/share_removed_largest",
    "basis_rank": "gradient/basis_rank", "estimate_bytes": "system/estimate_bytes",
}  # fmt: skip
"""Figures of a training whose first word says nothing of their group."""


def _never_raises(
    method: Callable[Concatenate["SpooledLog", P], None],
) -> Callable[Concatenate["SpooledLog", P], None]:
    """A full disk or a file gone missing costs the record, never the training."""

    @functools.wraps(method)
    def guarded(log: "SpooledLog", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if not log.recording:
            return
        try:
            method(log, *args, **kwargs)
        except Exception as error:
            log.lost += 1
            if log.lost == 1:
                logger.warning("MLflow: %s is not recorded: %s", method.__name__, error)

    return guarded


class SpooledLog:
    """Appends what a stage says to the spool; has the shape of ``stages.context.RunLog``."""

    def __init__(
        self,
        writer: SpoolWriter | None,
        placement: Placement,
        seen: Mapping[tuple[str, int], float] | None = None,
    ) -> None:
        """``seen`` holds the figures a run that was cut off has logged already.

        Without a ``writer`` nothing is kept.
        """
        self._writer = writer
        self._placement = placement
        self._seen = seen or {}
        self.lost = 0

    @property
    def recording(self) -> bool:
        return self._writer is not None

    @_never_raises
    def params(self, values: Mapping[str, Scalar]) -> None:
        """Settings.

        On another stage's run only the stage's own section is kept, and as tags: MLflow's params
        never change again, and the rest is told there already.
        """
        texts = {name: "null" if value is None else str(value) for name, value in values.items()}
        if self._placement.owner:
            self._append("params", values=texts)
        else:
            section = self._placement.prefix.replace("/", ".")
            own = {name: text for name, text in texts.items() if name.startswith(section)}
            self._append("tags", values=own)

    @_never_raises
    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if not self._placement.figures:
            return
        figures = {self._grouped(name): float(value) for name, value in values.items()}
        if step is not None and self._seen:
            figures = {k: v for k, v in figures.items() if self._seen.get((k, step)) != v}
        if figures:
            self._append("metrics", values=figures, step=step or 0)

    @_never_raises
    def artifact(self, path: Path, folder: str = "") -> None:
        """A copy is kept until it is delivered: the file itself may be written anew by then."""
        self._keep(path.name, folder, lambda target: shutil.copyfile(path, target))

    @_never_raises
    def picture(self, path: Path, name: str, step: int) -> None:
        """MLflow's page shows it by step, beside the same picture of other runs."""
        self._keep(path.name, "", lambda target: shutil.copyfile(path, target), name, step)

    @_never_raises
    def dataset(self, name: str, path: Path, context: str) -> None:
        """The set is named by its content's DVC digest."""
        folder = "/".join(path.parts[-3:])
        self._append("dataset", name=name, digest=dvc_digest(path), context=context, source=folder)

    @_never_raises
    def results(self, figures: Mapping[str, int | float | str], pictures: Sequence[bytes]) -> None:
        """What the stage says of its artefact in the end; ``pictures`` are JPEGs."""
        if self._placement.owner:
            texts = {name: value for name, value in figures.items() if isinstance(value, str)}
            self._append("tags", values=texts)
        if self._placement.results:
            numbers = {k: float(v) for k, v in figures.items() if not isinstance(v, str)}
            self._append("metrics", values={f"result/{k}": v for k, v in numbers.items()}, step=0)
        for number, jpeg in enumerate(pictures, start=1):
            which = "" if number == 1 else f"_{number}"
            name = f"{self._placement.picture}{which}.jpg"
            self._keep(name, "", functools.partial(_write, content=jpeg))

    @_never_raises
    def tags(self, values: Mapping[str, str]) -> None:
        self._append("tags", values=dict(values))

    @_never_raises
    def status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        self._append("status", status=status)

    def _keep(
        self,
        name: str,
        folder: str,
        write: Callable[[Path], object],
        picture: str | None = None,
        step: int = 0,
    ) -> None:
        """Keep a file to send: as a file of the run, or as ``picture`` of a step."""
        if self._writer is not None:
            kept = Path("files", uuid.uuid4().hex, name)
            target = self._writer.path.parent / kept
            target.parent.mkdir(parents=True)
            write(target)
            if picture is None:
                self._append("artifact", file=kept.as_posix(), folder=folder)
            else:
                self._append("picture", file=kept.as_posix(), name=picture, step=step)

    def _append(self, kind: str, **content: Any) -> None:
        if self._writer is not None:
            self._writer.append({"kind": kind, "at": time.time_ns() // 1_000_000, **content})

    def _grouped(self, name: str) -> str:
        if name in GROUPED:
            return GROUPED[name]
        first, _, rest = name.partition("_")
        if rest and first in GROUPS:
            group = GROUPS[first]
            return f"{group}_{rest}" if "/" in group else f"{group}/{rest}"
        return f"{self._placement.prefix}{name}"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
