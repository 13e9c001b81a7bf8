"""What scores the looks of a training: an extractor, and prototypes of the training split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nsync_pipeline.artifacts import MANIFEST_FILE
from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.families.family import Family
from nsync_pipeline.image_sets.contact_sheet import evenly_spaced
from nsync_pipeline.image_sets.manifest import NEGATIVE_SET, read_manifest
from nsync_pipeline.metrics.distances import Floats
from nsync_pipeline.metrics.extractor import Extractor
from nsync_pipeline.metrics.features import load_extractor
from nsync_pipeline.stages.context import StageContext
from nsync_pipeline.stages.picture_files import open_squares
from nsync_pipeline.training.encoded_set import Example
from nsync_pipeline.training.watch_config import WatchConfig
from nsync_pipeline.training.watch_score import StyleTargets, style_margins, style_targets

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
    context: StageContext,
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
