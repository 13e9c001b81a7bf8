"""Artefacts appear whole: a stage writes beside its place, and what it wrote is moved there."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from nsync_pipeline.artifacts import Workspace
from nsync_pipeline.errors import UserError


def partial_folder(folder: Path) -> Path:
    """Where the artefact of ``folder`` is written; on the same file system."""
    return folder.with_name(f".{folder.name}.partial")


@dataclass(frozen=True)
class StagingWorkspace(Workspace):
    """A workspace in which one artefact's folder lies beside its place."""

    place: Path = field(kw_only=True)
    partial: Path = field(kw_only=True)

    def _staged(self, folder: Path) -> Path:
        return self.partial if folder == self.place else folder

    def style_set(self, style: str) -> Path:
        return self._staged(super().style_set(style))

    def captions(self, style: str) -> Path:
        return self._staged(super().captions(style))

    def negative_set(self, style: str) -> Path:
        return self._staged(super().negative_set(style))

    def model(self, style: str, variant: str, training_seed: int | str) -> Path:
        return self._staged(super().model(style, variant, training_seed))

    def samples(self, style: str, variant: str, training_seed: int | str | None = None) -> Path:
        return self._staged(super().samples(style, variant, training_seed))

    def evaluation(self, style: str) -> Path:
        return self._staged(super().evaluation(style))

    def report(self, style: str) -> Path:
        return self._staged(super().report(style))


def begin(workspace: Workspace, place: Path) -> StagingWorkspace:
    """An empty folder to write ``place`` in; what an interrupted run left there is gone."""
    partial = partial_folder(place)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return StagingWorkspace(workspace.root, workspace.of_ablation, place=place, partial=partial)


def publish(staging: StagingWorkspace) -> None:
    """Move what was written to its place; what was there before is gone.

    Raises:
        UserError: its place is not a folder.
    """
    if staging.place.is_symlink() or staging.place.is_file():
        raise UserError(f"{staging.place} is not a folder: move it away, then run this again.")
    old = staging.place.with_name(f".{staging.place.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if staging.place.exists():
        staging.place.rename(old)
    staging.partial.rename(staging.place)
    shutil.rmtree(old, ignore_errors=True)
