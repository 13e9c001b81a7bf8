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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from nsync_pipeline.contrast.branch_gradients import out_of_memory
from nsync_pipeline.drawing.config import ORDINARY, SamplerConfig
from nsync_pipeline.drawing.picture_store import png_bytes
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.errors import BaseModelError, EvaluationError
from nsync_pipeline.families.family import Family
from nsync_pipeline.files import whole_folder
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.features import load_extractor
from nsync_pipeline.metrics.picture_metrics import prototype, style_scores
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, read_manifest
from nsync_pipeline.pictures.pixels import open_squares
from nsync_pipeline.pictures.sheets import (
    BACKGROUND,
    GAP,
    INK,
    contact_sheet,
    evenly_spaced,
    small_jpeg,
)
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.stage import StageContext
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.training.encoded_set import Example
from nsync_pipeline.workspace import MANIFEST_FILE

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 8
"""Pictures a pass, drawn or measured: less memory than a training step of as many."""

GRID_CELL = 256
"""Pixels a picture has at most in the grid of one look."""

MOST_IN_PROTOTYPE = 256
"""Training pictures, or negatives, that a prototype is the mean of."""

Scorer = Callable[[Sequence[Image.Image]], tuple[float, ...]]
"""The style margin of each picture."""


@dataclass(frozen=True)
class StyleTargets:
    """What the pictures of every look are measured against; all of it from the training split."""

    style: Floats  # (d,) the prototype of the training pictures
    rivals: Floats  # (K, d) of the negatives, and of what the model drew before the first step

    def margins(self, features: Floats) -> tuple[float, ...]:
        """Of each picture of unit ``features`` (P, d): its cosine to the style's prototype, less
        that to the nearest rival's."""
        return tuple(style_scores(features, self.style, self.rivals).margin.tolist())


def style_targets(style: Floats, *rivals: Floats) -> StyleTargets:
    """The prototypes of unit features (N, d), one or more rivals.

    Raises:
        ValueError: one of them is empty, or has no mean direction.
    """
    return StyleTargets(prototype(style), np.stack([prototype(found) for found in rivals]))


@dataclass(frozen=True)
class LookScore:
    """The style margin of one look."""

    step: int  # steps done
    margins: tuple[float, ...]  # one a picture; the same captions and seeds at every look

    @property
    def style_margin(self) -> float:
        """The mean over the pictures."""
        return fmean(self.margins)

    @property
    def standard_error(self) -> float | None:
        """Of the mean over captions; None for a single picture."""
        if len(self.margins) < 2:
            return None
        return stdev(self.margins) / math.sqrt(len(self.margins))

    def lead_over(self, other: "LookScore") -> "LookScore":
        """The difference, picture by picture: each pair has the same caption and seed."""
        pairs = zip(self.margins, other.margins, strict=True)
        return LookScore(self.step, tuple(x - y for x, y in pairs))

    @property
    def told_apart(self) -> bool:
        """It is more than twice its standard error from zero."""
        return self.standard_error is not None and abs(self.style_margin) > 2 * self.standard_error


def best_look(scores: Mapping[int, LookScore]) -> LookScore:
    """The highest; the earliest of those as high. ``scores``, by steps done, is not empty."""
    return max((scores[step] for step in sorted(scores)), key=lambda score: score.style_margin)


@dataclass
class Looks:
    """Draws, keeps and scores the looks of one training, as its ``training.watch`` says."""

    context: StageContext[TrainingSettings]
    family: Family  # holds what is trained
    examples: Sequence[Example]  # what is trained on
    kept: Path  # where looks are kept until the training ends
    weights: str  # all that decides the weights after a step
    word: str  # what prompts call the style
    _scorer: Scorer | None = field(default=None, init=False)
    _scores: dict[int, LookScore] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._settings = settings = self.context.settings.training.watch
        by_id = sorted(self.examples, key=lambda example: example.id)
        self._shown = [by_id[index] for index in evenly_spaced(len(by_id), settings.prompts)]
        seed = self.context.settings.seed
        self._requests = [
            PictureRequest(f"{place:02d}", example.prompt, stream_seed(seed, "look", example.id))
            for place, example in enumerate(self._shown)
        ]
        own = dict.fromkeys(settings.own_prompts)
        self._own_requests = [
            PictureRequest(
                f"{place:02d}", styled_prompt(text, self.word), stream_seed(seed, "own look", text)
            )
            for place, text in enumerate(own, start=len(self._shown))
        ]
        self._sampler = SamplerConfig(
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            batch_size=min(MOST_AT_ONCE, len(self._requests)),
        )
        # A look is used again wherever it would come out the same, whatever else is changed.
        pictures = [(request.prompt, request.seed) for request in self._requests]
        how = [self._sampler.model_dump()]
        if settings.guidance != ORDINARY:
            how.append(settings.guidance.model_dump())
        if own:
            how.append({"own_prompts": [(one.prompt, one.seed) for one in self._own_requests]})
        drawn_from = json.dumps([self.weights, pictures, *how])
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
        images = self._pictures(done)
        columns = math.ceil(math.sqrt(len(images)))
        return small_jpeg(contact_sheet(images, columns, min(GRID_CELL, max(images[0].size))))

    def score(self, done: int) -> LookScore | None:
        """The score of a look; None before the first step, and without an extractor.

        Raises:
            EvaluationError: the extractor cannot be used, or cannot tell the pictures apart.
            MissingArtifactError: there are no negatives.
        """
        if self._settings.extractor is None:
            return None
        if self._scorer is None:  # at the first look, so that what is wrong with it shows then
            self._scorer = self._load_scorer(self._settings.extractor)
        if done == 0:
            return None
        if done not in self._scores:
            self._scores[done] = LookScore(done, self._scorer(self._of_captions(done)))
        return self._scores[done]

    def scores(self) -> dict[int, LookScore]:
        return {s.step: s for s in map(self.score, self.steps()) if s is not None}

    def strip(self) -> Image.Image | None:
        """A row a prompt: the real picture of a caption, and what was drawn; None without looks."""
        steps = self.steps()
        if not steps:
            return None
        steps = [steps[index] for index in shown_columns(len(steps))]
        looks = [self._pictures(done) for done in steps]
        real = open_squares([e.picture.path for e in self._shown], self.family.resolution)
        first = [*real, *(None for _ in self._own_requests)]
        rows = [[picture, *(look[row] for look in looks)] for row, picture in enumerate(first)]
        return film_strip(rows, ["real", *(f"step {done}" for done in steps)])

    def _draw(self, done: int) -> bool:
        """Draw the pictures of a look, and keep them; False where the model draws none."""
        try:
            with whole_folder(self._place(done)) as folder, _undisturbed(self.family):
                # Apart from one another: what is scored is the same to the bit with others beside.
                for requests in filter(None, (self._requests, self._own_requests)):
                    for batch in draw_pictures(
                        self.family, requests, self._sampler, self._settings.guidance
                    ):
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

    def _of_captions(self, done: int) -> list[Image.Image]:
        return self._pictures(done)[: len(self._requests)]

    def prompts(self) -> str:
        """What is drawn at each look, as JSON: the pictures of a grid, in reading order."""
        every = (*self._requests, *self._own_requests)
        own = len(self._requests)
        said = [{"prompt": one.prompt, "own": place >= own} for place, one in enumerate(every)]
        return json.dumps(said, indent=1, ensure_ascii=False) + "\n"

    def _load_scorer(self, name: str) -> Scorer:
        context, resolution = self.context, self.family.resolution
        extractor = load_extractor(
            name,
            self._settings.extractor_revision,
            context.workspace.root,
            str(self.family.device),
            where="training.watch.extractor",
        )

        def features(paths: Sequence[Path]) -> Floats:
            some = [paths[index] for index in evenly_spaced(len(paths), MOST_IN_PROTOTYPE)]
            return extractor.image_features(open_squares(some, resolution), MOST_AT_ONCE)

        folder = context.workspace.negative_set(context.style)
        rows = read_manifest(folder / MANIFEST_FILE, NEGATIVE_SET)
        rivals = [features([folder / row["file"] for row in rows])]
        if 0 in self.steps():
            rivals.append(extractor.image_features(self._of_captions(0), MOST_AT_ONCE))
        try:
            style = features([example.picture.path for example in self.examples])
            targets = style_targets(style, *rivals)
        except ValueError as error:
            raise EvaluationError(
                f"training.watch.extractor {name!r} cannot tell the training pictures "
                f"of {context.style} apart: {error}"
            ) from error
        return lambda images: targets.margins(extractor.image_features(images, MOST_AT_ONCE))


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


HEADING_SIZE = 13
SMALL = 64
"""Pixels; pictures this small are shown at twice their size, their pixels kept."""

CELL = 128
"""Pixels a cell of the strip has at most."""

MOST_COLUMNS = 12
MISSING = (216, 212, 204)
"""The colour of a cell that no picture is there for."""


def shown_columns(count: int) -> list[int]:
    """At most ``MOST_COLUMNS`` of ``range(count)``, evenly, the first and the last always."""
    most = MOST_COLUMNS
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def film_strip(
    rows: Sequence[Sequence[Image.Image | None]], headings: Sequence[str]
) -> Image.Image:
    """``rows`` of pictures under the ``headings`` of their columns; a None leaves its cell empty.

    Raises:
        ValueError: there is no picture, or a row is not as long as the headings.
    """
    pictures = [picture for row in rows for picture in row if picture is not None]
    if not pictures or any(len(row) != len(headings) for row in rows):
        raise ValueError("a film-strip needs a picture, and a heading for each column")
    largest = max(max(picture.size) for picture in pictures)
    side = 2 * largest if largest <= SMALL else min(largest, CELL)
    step, font = side + GAP, ImageFont.load_default(HEADING_SIZE)
    top = HEADING_SIZE + 3 * GAP
    strip = Image.new("RGB", (len(headings) * step + GAP, len(rows) * step + GAP + top), BACKGROUND)
    write = ImageDraw.Draw(strip)
    for column, heading in enumerate(headings):
        left = GAP + column * step
        write.text((left, GAP), heading, fill=INK, font=font)
        for row, cells in enumerate(rows):
            above, picture = top + row * step, cells[column]
            if picture is None:
                write.rectangle((left, above, left + side - 1, above + side - 1), fill=MISSING)
                continue
            fitted = _fitted(picture.convert("RGB"), side)
            offset = ((side - fitted.width) // 2, (side - fitted.height) // 2)
            strip.paste(fitted, (left + offset[0], above + offset[1]))
    return strip


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """As large as goes into the cell; small ones by a whole factor, so that no pixel is blurred."""
    factor = math.floor(side / max(picture.size))
    if factor >= 2:
        return picture.resize(
            (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
        )
    return ImageOps.contain(picture, (side, side), Image.Resampling.LANCZOS)
