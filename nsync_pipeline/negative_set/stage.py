"""negative_set: for each training picture, what the frozen base draws for its caption.

The prompt is the caption in the generic style, at the size the picture is trained at (or the one
that ``negative_set.resolution`` says), so that a negative has the positive's content and shape and
lacks its style. A negative depends on its picture's id, caption and shape and on the settings;
adding a picture to the style changes no other negative. Drawn pictures stay in the workspace's
scratch (one set a style), which is where an interrupted run picks up.
"""

from nsync_pipeline.drawing.picture_store import draw_captions, sheet
from nsync_pipeline.drawing.schedulers import build_scheduler
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.negative_set.config import NegativeSetSettings
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, write_manifest
from nsync_pipeline.pictures.style_pictures import captioned_split
from nsync_pipeline.stage import StageContext, StageResult
from nsync_pipeline.workspace import MANIFEST_FILE

PREVIEW_PAIRS = 24


def run(context: StageContext[NegativeSetSettings]) -> StageResult:
    """Draw ``negative_set.per_positive`` negatives for each training picture.

    Raises:
        MissingArtifactError: the style set or its captions are missing.
        BaseModelError: the base cannot be loaded, or a picture comes out broken.
    """
    style, settings = context.settings.generic_style, context.settings.negative_set
    positives = captioned_split(context.workspace, context.style, "train")
    family = load_family(settings.sampler.base(context.settings.base_model))
    drawn = draw_captions(
        context, family, positives, style, settings.per_positive, settings.sampler,
        stage="negative_set", stream="negative", side=settings.resolution,
    )  # fmt: skip
    provenance: dict[str, int | float | str] = {
        "base_model": family.name,
        "base_revision": family.revision,
        "sampler": type(build_scheduler(family, settings.sampler)).__name__,
        "steps": settings.sampler.steps,
        "guidance_scale": settings.sampler.guidance_scale,
    }
    rows = [{**row, **provenance, "positive_id": positive.id} for positive, row in drawn]
    write_manifest(context.folder / MANIFEST_FILE, rows, NEGATIVE_SET)
    pairs = [(p.path, context.folder / row["file"]) for p, row in drawn if row["k"] == 0]
    counts = {"pictures": len(rows), "positives": len(positives)}
    return StageResult(
        figures={**counts, "generic_style": style, **provenance},
        previews=(sheet("real, negative", pairs, PREVIEW_PAIRS),),
    )
