"""The looks of a training: pictures drawn on the way, always of the same captions and seeds.

They are of *training* captions. The test captions are what the evaluation reports on: a checkpoint
chosen by them would be judged by what it was chosen by. A share of the training pictures set aside
would make the training another one as soon as it is watched. So a look says how much style there
is, not how well it carries over; the real picture beside each row shows where it is learned by
heart. All targets of the score are of the training split, too.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image

from nsync_pipeline.contrast.branch_gradients import out_of_memory
from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.drawing.picture_store import png_bytes
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.family import Family
from nsync_pipeline.files import whole_folder
from nsync_pipeline.pictures.pixels import open_squares
from nsync_pipeline.pictures.sheets import contact_sheet, evenly_spaced, small_jpeg
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.stage import StageContext
from nsync_pipeline.training.config import TrainingSettings, WatchConfig
from nsync_pipeline.training.encoded_set import Example
from nsync_pipeline.training.film_strip import film_strip, shown_columns
from nsync_pipeline.training.watch_score import LookScore, LookScorer, load_scorer

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 8
"""Pictures drawn in one pass: less memory than a training step of as many."""

GRID_CELL = 256
"""Pixels a picture has at most in the grid of one look."""


@dataclass
class WatchSampler:
    """Draws, keeps and scores the looks of one training.

    Args:
        context: of the stage.
        family: holds what is trained.
        settings: ``training.watch``.
        examples: what is trained on.
        kept: where looks are kept until the training ends.
        weights: a digest of all that decides the weights after a step.
    """

    context: StageContext[TrainingSettings]
    family: Family
    settings: WatchConfig
    examples: Sequence[Example]
    kept: Path
    weights: str
    _scorer: LookScorer | None = field(default=None, init=False)
    _scores: dict[int, LookScore] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        by_id = sorted(self.examples, key=lambda example: example.id)
        self._shown = [by_id[index] for index in evenly_spaced(len(by_id), self.settings.prompts)]
        seed = self.context.settings.seed
        self._requests = [
            PictureRequest(f"{place:02d}", example.prompt, stream_seed(seed, "look", example.id))
            for place, example in enumerate(self._shown)
        ]
        self._sampler = SamplerConfig(
            steps=self.settings.steps,
            guidance_scale=self.settings.guidance_scale,
            batch_size=min(MOST_AT_ONCE, len(self._requests)),
        )
        # A look is used again wherever it would come out the same, whatever else is changed.
        pictures = [(request.prompt, request.seed) for request in self._requests]
        drawn_from = json.dumps([self.weights, pictures, self._sampler.model_dump()])
        self._folder = self.kept / hashlib.sha256(drawn_from.encode()).hexdigest()[:16]

    def __call__(self, done: int) -> float | None:
        """Look at the model after ``done`` steps; gives its style margin.

        None where there is no score: before the first step (an untrained model is none to keep),
        without an extractor, and where no picture could be drawn.
        """
        if done not in self.steps() and not self._draw(done):
            return None
        score = self.score(done)
        return None if score is None else score.style_margin

    def steps(self) -> list[int]:
        """The steps done at each look, those of before an interruption too."""
        return sorted(int(path.name) for path in self._folder.glob("[0-9]*"))

    def grid(self, done: int) -> bytes:
        """The pictures of a look side by side, as a JPEG for previews."""
        images = self._pictures(done)
        columns = math.ceil(math.sqrt(len(images)))
        return small_jpeg(contact_sheet(images, columns, min(GRID_CELL, max(images[0].size))))

    def score(self, done: int) -> LookScore | None:
        """The score of a look; None before the first step, and without an extractor."""
        if self.settings.extractor is None:
            return None
        if self._scorer is None:  # at the first look, so that what is wrong with it shows then
            untrained = self._pictures(0) if 0 in self.steps() else None
            self._scorer = load_scorer(
                self.context, self.settings, self.family, self.examples, untrained
            )
        if done == 0:
            return None
        if done not in self._scores:
            self._scores[done] = LookScore(done, self._scorer.margins(self._pictures(done)))
        return self._scores[done]

    def scores(self) -> tuple[LookScore, ...]:
        """Of every look so far, by steps done."""
        return tuple(s for s in map(self.score, self.steps()) if s is not None)

    def strip(self) -> Image.Image | None:
        """A row a caption: the real picture, then what was drawn of it; None without looks."""
        steps = self.steps()
        if not steps:
            return None
        steps = [steps[index] for index in shown_columns(len(steps))]
        looks = [self._pictures(done) for done in steps]
        real = open_squares([e.picture.path for e in self._shown], self.family.resolution)
        rows = [[picture, *(look[row] for look in looks)] for row, picture in enumerate(real)]
        return film_strip(rows, ["real", *(f"step {done}" for done in steps)])

    def _draw(self, done: int) -> bool:
        """Draw the pictures of a look, and keep them; False where the model draws none."""
        try:
            with whole_folder(self._place(done)) as folder, _undisturbed(self.family):
                for batch in draw_pictures(self.family, self._requests, self._sampler):
                    for picture in batch:
                        png = png_bytes(picture.pixels)
                        (folder / f"{picture.request.id}.png").write_bytes(png)
        except (BaseModelError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            # A look is there to see such a thing; the training does not end by it.
            logger.warning("no look after %d steps: %s", done, error)
            return False
        return True

    def _place(self, done: int) -> Path:
        return self._folder / f"{done:08d}"

    def _pictures(self, done: int) -> list[Image.Image]:
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
