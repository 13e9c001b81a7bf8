"""The pictures of one style as features: what evaluation measures on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from nsync_pipeline.evaluation.config import EvaluationConfig
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.extractor import ClipExtractor, Extractor, unit_rows
from nsync_pipeline.metrics.feature_cache import FeatureCache
from nsync_pipeline.metrics.features import load_clip, load_extractor
from nsync_pipeline.metrics.inception import load_inception
from nsync_pipeline.metrics.scores import PictureSet
from nsync_pipeline.pictures.layout import picture_sha256
from nsync_pipeline.pictures.pixels import open_squares
from nsync_pipeline.pictures.style_pictures import RealPicture, Sample, StylePictures
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.sketchbook.canvas import PICTURE_SIZE
from nsync_pipeline.sketchbook.confounds import content_shown, leaked, unconfounded
from nsync_pipeline.sketchbook.folders import JUDGES_FOLDER
from nsync_pipeline.sketchbook.judges import Judges, load_judges
from nsync_pipeline.sketchbook.scene import scene_of
from nsync_pipeline.sketchbook.verdicts import LABELS
from nsync_pipeline.sketchbook.world import SEEN_STYLES, draw_style_set
from nsync_pipeline.stage import Progress
from nsync_pipeline.workspace import SKETCHBOOK_PREFIX, drawn_style

SEEN_STYLE_PICTURES = 32
"""How many drawn pictures make the prototype of each style the embedded base knows."""


@dataclass(frozen=True)
class DrawnWorldJudge:
    """The embedded world's classifiers, asked about one style and what its prompts named."""

    judges: Judges
    style: int  # its place among the classifier's labels
    confound: str | None

    def values(self, pictures: Iterator[Image.Image], captions: Sequence[str]) -> dict[str, Floats]:
        """By metric, (N,).

        - ``style_recognised``: how surely each picture is taken for one in the style;
        - ``content_recognised``: the share of its caption's things that are seen, in their colours;
        - ``leak``: 1 where it shows the style's confound; not there where a caption asks for that.
        """
        size = (PICTURE_SIZE, PICTURE_SIZE)
        pixels = [np.asarray(picture.resize(size), dtype=np.uint8) for picture in pictures]
        verdicts = self.judges.judge(np.stack(pixels))
        values = {"style_recognised": verdicts.styles[:, self.style].astype(np.float64)}
        scenes = [scene for caption in captions if (scene := scene_of(caption)) is not None]
        if len(scenes) < len(captions):  # captions of the user's own
            return values
        values["content_recognised"] = content_shown(verdicts, scenes)
        if self.confound is not None and all(map(unconfounded(self.confound), scenes)):
            values["leak"] = leaked(self.confound, verdicts, scenes).astype(np.float64)
        return values


def drawn_world_judge(source: str) -> DrawnWorldJudge | None:
    """The judge for a style whose ``source`` is the embedded world; None for real pictures."""
    if not source.startswith(SKETCHBOOK_PREFIX):
        return None
    name, confound = drawn_style(source)
    if name not in LABELS["styles"]:
        return None
    return DrawnWorldJudge(load_judges(JUDGES_FOLDER), LABELS["styles"].index(name), confound)


@dataclass(frozen=True)
class Extractors:
    """The networks that an evaluation asks; they may be one and the same."""

    clip: ClipExtractor
    style: Extractor
    likeness: Extractor
    kid_and_fid: Extractor

    def by_role(self) -> dict[str, Extractor]:
        """As the evaluation and the report name them."""
        return {
            "CLIP": self.clip,
            "style": self.style,
            "likeness": self.likeness,
            "KID and FID": self.kid_and_fid,
        }


def identity(extractor: Extractor) -> str:
    """What a picture's features depend on besides the picture."""
    return f"{extractor.sha256} {extractor.preprocessing}"


def load_extractors(settings: EvaluationConfig, root: Path, device: str) -> Extractors:
    """The extractors that ``settings`` name; paths are relative to ``root``.

    Raises:
        EvaluationError: one cannot be used.
    """
    clip = load_clip(settings.extractor, settings.extractor_revision, root, device)
    style: Extractor = clip
    if (name := settings.style_extractor) is not None:
        revision, where = settings.style_extractor_revision, "evaluation.style_extractor"
        style = load_extractor(name, revision, root, device, where)
    likeness: Extractor = clip
    if (name := settings.likeness_extractor) is not None:
        revision, where = settings.likeness_extractor_revision, "evaluation.likeness_extractor"
        likeness = load_extractor(name, revision, root, device, where)
    kid_and_fid: Extractor = clip
    if (name := settings.inception_extractor) is not None:
        kid_and_fid = load_inception(name, settings.inception_extractor_revision, root, device)
    return Extractors(clip, style, likeness, kid_and_fid)


@dataclass(frozen=True)
class FeatureReader:
    """Reads picture files into features, the real ones cut and sized as the model saw them."""

    pictures: StylePictures
    extractors: Extractors
    cache: FeatureCache
    batch_size: int
    judge: DrawnWorldJudge | None
    progress: Progress

    def test(self) -> PictureSet:
        """The real held-out pictures: units 0 .. P-1."""
        return self._set("test", self.pictures.test, range(len(self.pictures.test)))

    def train(self) -> PictureSet:
        """The real training pictures: units P .. P+T-1."""
        first, real = len(self.pictures.test), self.pictures.train
        return self._set("training", real, range(first, first + len(real)))

    def samples(self, name: str, point: str | None = None) -> PictureSet:
        """What the base or a training drew, each picture in the unit of its caption.

        ``point`` is a further way of drawing; None: as ``generation.guidance`` says.
        """
        unit_of = {picture.id: unit for unit, picture in enumerate(self.pictures.test)}
        pictures = self.pictures
        drawn = pictures.samples[name] if point is None else pictures.at_points[name, point]
        what = name if point is None else f"{name}, {point},"
        return self._set(what, drawn, [unit_of[sample.prompt_id] for sample in drawn])

    def negatives(self) -> Floats:
        """(N, s) of style."""
        paths = [negative.path for negative in self.pictures.negatives]
        return unit_rows(self._features("negative", paths, self.extractors.style))

    def seen_styles(self, seed: int) -> dict[str, Floats]:
        """Fresh drawings in each style the embedded base was pretrained on: (N, s) a style."""
        stream, extractor = stream_seed(seed, "seen styles"), self.extractors.style
        features: dict[str, Floats] = {}
        for style in SEEN_STYLES:
            self.progress("drawing seen styles", len(features), len(SEEN_STYLES))
            images = [p.image for p in draw_style_set(style, SEEN_STYLE_PICTURES, stream)]
            pixels = [(hashlib.sha256(image.tobytes()).hexdigest(), image.size) for image in images]
            rows = self.cache.features(
                identity(extractor),
                [f"pixels {digest} {size}" for digest, size in pixels],
                partial(extractor.plain_features, images, self.batch_size),
            )
            features[style] = unit_rows(rows)
        self.progress("drawing seen styles", len(SEEN_STYLES), len(SEEN_STYLES))
        return features

    def _set(
        self, what: str, shown: Sequence[RealPicture | Sample], units: Sequence[int]
    ) -> PictureSet:
        paths, captions = [one.path for one in shown], [one.caption for one in shown]
        judged, asked = {}, self.extractors
        if self.judge is not None:
            judged = self.judge.values(open_squares(paths, self.pictures.side), captions)
        features = {
            name: self._features(what, paths, extractor)
            for name, extractor in {identity(e): e for e in asked.by_role().values()}.items()
        }
        texts = self.cache.features(
            f"texts {asked.clip.sha256}",
            [json.dumps(caption) for caption in captions],
            lambda: asked.clip.text_features(captions, self.batch_size),
        )
        return PictureSet(
            pictures=unit_rows(features[identity(asked.clip)]),
            captions=texts,
            plain=features[identity(asked.kid_and_fid)],
            style=unit_rows(features[identity(asked.style)]),
            likeness=unit_rows(features[identity(asked.likeness)]),
            unit=np.asarray(units, dtype=np.int64),
            judged=judged,
        )

    def _features(self, what: str, paths: Sequence[Path], extractor: Extractor) -> Floats:
        side = self.pictures.side
        return self.cache.features(
            identity(extractor),
            [f"{picture_sha256(path)} {side}" for path in paths],
            lambda: extractor.plain_features(self._counted(what, paths), self.batch_size),
        )

    def _counted(self, what: str, paths: Sequence[Path]) -> Iterator[Image.Image]:
        for done, picture in enumerate(open_squares(paths, self.pictures.side)):
            self.progress(f"features of {what} pictures", done, len(paths))
            yield picture
        self.progress(f"features of {what} pictures", len(paths), len(paths))
