"""The looks of a training: pictures drawn on the way, always of the same captions and seeds.

They are of *training* captions. The test captions are what the evaluation reports on: a checkpoint
chosen by them would be judged by what it was chosen by. A share of the training pictures set aside
would make the training another one as soon as it is watched. So a look says how much style there
is, not how well it carries over; the real picture beside each row shows where it is learned by
heart. All targets of the score are of the training split, too.
"""

import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from nsync_pipeline.contrast.branch_gradients import out_of_memory
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.picture_store import write_png
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.errors import BaseModelError, EvaluationError
from nsync_pipeline.families.family import Family
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.extractor import Extractor
from nsync_pipeline.metrics.features import load_extractor
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, read_manifest
from nsync_pipeline.pictures.pixels import open_squares
from nsync_pipeline.pictures.sheets import contact_sheet, evenly_spaced
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.stage import StageContext
from nsync_pipeline.training.config import TrainingSettings, WatchConfig
from nsync_pipeline.training.encoded_set import Example
from nsync_pipeline.training.film_strip import film_strip, shown_columns
from nsync_pipeline.training.watch_score import (
    LookScore,
    StyleTargets,
    style_margins,
    style_targets,
)
from nsync_pipeline.workspace import MANIFEST_FILE

MOST_IN_PROTOTYPE = 256
"""Training pictures, or negatives, that a prototype is the mean of."""

AT_ONCE = 8
"""Pictures a pass of the extractor."""


@dataclass(frozen=True)
class LookScorer:
    """Gives each picture of a look its style margin."""

    extractor: Extractor
    targets: StyleTargets

    def margins(self, images: Sequence[Image.Image]) -> tuple[float, ...]:
        """One a picture."""
        return style_margins(self.extractor.image_features(images, AT_ONCE), self.targets)


def load_scorer(
    context: StageContext[TrainingSettings],
    settings: WatchConfig,
    family: Family,
    examples: Sequence[Example],
    untrained: Sequence[Image.Image] | None,
) -> LookScorer:
    """The scorer of one training.

    Args:
        context: of the stage.
        settings: ``training.watch``, with an extractor.
        family: at whose resolution real pictures are seen.
        examples: the training pictures.
        untrained: what the model drew before the first step; None where it drew nothing.

    Raises:
        EvaluationError: the extractor cannot be used, or cannot tell the pictures apart.
        MissingArtifactError: there are no negatives.
    """
    if settings.extractor is None:
        raise ValueError("a scorer needs an extractor")
    extractor = load_extractor(
        settings.extractor,
        settings.extractor_revision,
        context.workspace.root,
        str(family.device),
        where="training.watch.extractor",
    )

    def features(paths: Sequence[Path]) -> Floats:
        some = [paths[index] for index in evenly_spaced(len(paths), MOST_IN_PROTOTYPE)]
        return extractor.image_features(open_squares(some, family.resolution), AT_ONCE)

    folder = context.workspace.negative_set(context.style)
    rows = read_manifest(folder / MANIFEST_FILE, NEGATIVE_SET)
    rivals = [features([folder / row["file"] for row in rows])]
    if untrained is not None:
        rivals.append(extractor.image_features(untrained, AT_ONCE))
    try:
        targets = style_targets(features([example.picture.path for example in examples]), *rivals)
    except ValueError as error:
        raise EvaluationError(
            f"training.watch.extractor {settings.extractor!r} cannot tell the training pictures "
            f"of {context.style} apart: {error}"
        ) from error
    return LookScorer(extractor, targets)


logger = logging.getLogger(__name__)

MOST_AT_ONCE = 8
"""Pictures drawn in one pass: less memory than a training step of as many."""

GRID_CELL = 256
"""Pixels a picture has at most in the grid of one look."""


@dataclass
class Looks:
    """Draws, keeps and scores the looks of one training.

    Args:
        context: of the stage.
        family: holds what is trained.
        settings: ``training.watch``.
        examples: what is trained on.
        folder: where the pictures are kept until the training ends; of these inputs alone.
    """

    context: StageContext[TrainingSettings]
    family: Family
    settings: WatchConfig
    examples: Sequence[Example]
    folder: Path
    _scorer: LookScorer | None = field(default=None, init=False)

    def __call__(self, done: int) -> float | None:
        """Look at the model after ``done`` steps; gives its style margin.

        None where there is no score: before the first step (an untrained model is none to keep),
        without an extractor, and where no picture could be drawn.
        """
        if done not in self._steps() and not self._draw(done):
            return None
        images = self._kept(done)
        grid = self.folder / "grid.png"
        columns = math.ceil(math.sqrt(len(images)))
        contact_sheet(images, columns, min(GRID_CELL, max(images[0].size))).save(grid)
        score = self._score(done)
        if score is None:
            return None
        return score.style_margin

    def scores(self) -> tuple[LookScore, ...]:
        """Of every look so far, by steps done; those of before an interruption, too."""
        found = [self._score(done) for done in self._steps()]
        return tuple(score for score in found if score is not None)

    def strip(self) -> Image.Image | None:
        """A row a caption: the real picture, then what was drawn of it; None without looks."""
        steps = self._steps()
        if not steps:
            return None
        steps = [steps[index] for index in shown_columns(len(steps))]
        looks = [self._kept(done) for done in steps]
        side = self.family.resolution
        real = open_squares([example.picture.path for example in self._shown()], side)
        rows = [[picture, *(look[row] for look in looks)] for row, picture in enumerate(real)]
        return film_strip(rows, ["real", *(f"step {done}" for done in steps)])

    def remove(self) -> None:
        """Remove what is kept: the training is done."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _shown(self) -> list[Example]:
        """The examples whose captions are drawn: by id, evenly spaced."""
        by_id = sorted(self.examples, key=lambda example: example.id)
        return [by_id[index] for index in evenly_spaced(len(by_id), self.settings.prompts)]

    def _draw(self, done: int) -> bool:
        """Draw the pictures of a look, and keep them; False where the model draws none."""
        seed = self.context.settings.seed
        requests = [
            PictureRequest(f"{place:02d}", example.prompt, stream_seed(seed, "look", example.id))
            for place, example in enumerate(self._shown())
        ]
        sampler = SamplerConfig(
            steps=self.settings.steps,
            guidance_scale=self.settings.guidance_scale,
            batch_size=min(MOST_AT_ONCE, len(requests)),
        )
        if not self.folder.exists():  # what is beside it was left by trainings of other inputs
            shutil.rmtree(self.folder.parent, ignore_errors=True)
        partial = self.folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with _undisturbed(self.family):
                for batch in draw_pictures(self.family, requests, sampler):
                    for picture in batch:
                        write_png(partial / f"{picture.request.id}.png", picture.pixels)
        except (BaseModelError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            # A look is there to see such a thing; the training does not end by it.
            logger.warning("no look after %d steps: %s", done, error)
            return False
        partial.rename(self._place(done))
        return True

    def _score(self, done: int) -> LookScore | None:
        """None before the first step, and without an extractor."""
        if self.settings.extractor is None:
            return None
        if self._scorer is None:  # at the first look, so that what is wrong with it shows then
            untrained = self._kept(0) if 0 in self._steps() else None
            self._scorer = load_scorer(
                self.context, self.settings, self.family, self.examples, untrained
            )
        if done == 0:
            return None
        return LookScore(done, self._scorer.margins(self._kept(done)))

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*"))

    def _place(self, done: int) -> Path:
        return self.folder / f"{done:08d}"

    def _kept(self, done: int) -> list[Image.Image]:
        return [Image.open(path).convert("RGB") for path in sorted(self._place(done).glob("*.png"))]


@contextmanager
def _undisturbed(family: Family) -> Iterator[None]:
    """Draw inside as after the training, and leave no trace of it: modes, random states."""
    parts = (family.denoiser, *family.text_encoders)
    modes = [(module, module.training) for part in parts for module in part.modules()]
    devices = [torch.cuda.current_device()] if family.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        for part in parts:
            part.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
