"""How much the pictures of a look have of the style, and how far so few of them can be trusted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from PIL import Image

from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.families.family import Family
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.extractor import Extractor
from nsync_pipeline.metrics.features import load_extractor
from nsync_pipeline.metrics.picture_metrics import prototype, style_scores
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, read_manifest
from nsync_pipeline.pictures.pixels import open_squares
from nsync_pipeline.pictures.sheets import evenly_spaced
from nsync_pipeline.stage import StageContext
from nsync_pipeline.training.config import TrainingSettings, WatchConfig
from nsync_pipeline.training.encoded_set import Example
from nsync_pipeline.workspace import MANIFEST_FILE


@dataclass(frozen=True)
class StyleTargets:
    """What the pictures of every look are measured against; all of it from the training split."""

    style: Floats  # (d,) the prototype of the training pictures
    rivals: Floats  # (K, d) of the negatives, and of what the model drew before the first step


def style_targets(style: Floats, *rivals: Floats) -> StyleTargets:
    """The prototypes of unit features (N, d), one or more rivals.

    Raises:
        ValueError: one of them is empty, or has no mean direction.
    """
    return StyleTargets(prototype(style), np.stack([prototype(found) for found in rivals]))


def style_margins(features: Floats, targets: StyleTargets) -> tuple[float, ...]:
    """Of each picture of unit ``features`` (P, d): its cosine to the style's prototype, less that
    to the nearest rival's."""
    return tuple(style_scores(features, targets.style, targets.rivals).margin.tolist())


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


@dataclass(frozen=True)
class PairedDifference:
    """How much higher one look scores than another."""

    mean: float
    standard_error: float | None  # None for a single picture

    @property
    def told_apart(self) -> bool:
        """The difference is above twice its standard error."""
        return self.standard_error is not None and abs(self.mean) > 2 * self.standard_error


def paired_difference(a: LookScore, b: LookScore) -> PairedDifference:
    """``a`` less ``b``, picture by picture: each pair has the same caption and seed."""
    differences = [x - y for x, y in zip(a.margins, b.margins, strict=True)]
    error = None
    if len(differences) > 1:
        error = stdev(differences) / math.sqrt(len(differences))
    return PairedDifference(fmean(differences), error)


def best_look(scores: Mapping[int, LookScore]) -> LookScore:
    """The highest; the earliest of those as high. ``scores``, by steps done, is not empty."""
    return max((scores[step] for step in sorted(scores)), key=lambda score: score.style_margin)


@dataclass(frozen=True)
class Best:
    """The best look so far."""

    step: int  # optimizer steps done
    score: float  # higher is better


def better(best: Best | None, step: int, score: float | None) -> bool:
    """Whether the look after ``step`` steps is the best; untrained weights never are.

    Of two with the same score the earlier is: what was learned since brought nothing.
    """
    if score is None or step == 0:
        return False
    return best is None or score > best.score
