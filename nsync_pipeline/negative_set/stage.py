"""negative_set: for each training picture, what the frozen base draws for its caption.

The prompt is the caption in the generic style, at the size the picture is trained at, so that a
negative has the positive's content and shape and lacks its style. A negative depends on its
picture's id, caption and shape and on the settings; adding a picture to the style changes no other
negative. Drawn pictures stay in the workspace's scratch (one set a style), which is where an
interrupted run picks up.
"""

from nsync_pipeline.drawing.picture_store import draw_set, place_pictures, sheet
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.drawing.sampling import PictureRequest
from nsync_pipeline.drawing.schedulers import build_scheduler
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.negative_set.config import NegativeSetSettings
from nsync_pipeline.pictures.manifest import NEGATIVE_SET, write_manifest
from nsync_pipeline.pictures.pixels import picture_sizes
from nsync_pipeline.pictures.style_pictures import captioned_split
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.stage import StageContext, StageResult
from nsync_pipeline.workspace import MANIFEST_FILE

PREVIEW_PAIRS = 24


def run(context: StageContext[NegativeSetSettings]) -> StageResult:
    """Draw ``negative_set.per_positive`` negatives for each training picture.

    Raises:
        MissingArtifactError: the style set or its captions are missing.
        BaseModelError: the base cannot be loaded, or a picture comes out broken.
    """
    params, out = context.settings, context.folder
    settings = params.negative_set
    positives = captioned_split(context.workspace, context.style, "train")
    family = load_family(params.base_model)
    sizes = picture_sizes(family, params.base_model.aspect_buckets)
    requests = {
        (positive.id, k): PictureRequest(
            id=f"{positive.id}_{k}",
            prompt=styled_prompt(positive.caption, params.generic_style),
            seed=stream_seed(params.seed, "negative", positive.id, k),
            size=sizes.asked_for(positive.width, positive.height),
        )
        for positive in positives
        for k in range(settings.per_positive)
    }
    drawn = draw_set(context, family, list(requests.values()), settings.sampler, "negative_set")
    provenance: dict[str, int | float | str] = {
        "base_model": family.name,
        "base_revision": family.revision,
        "sampler": type(build_scheduler(family, settings.sampler)).__name__,
        "steps": settings.sampler.steps,
        "guidance_scale": settings.sampler.guidance_scale,
    }
    columns = place_pictures(drawn, out)
    rows = [
        {
            **columns[request.id],
            **provenance,
            "positive_id": positive_id,
            "k": k,
            "prompt": request.prompt,
            "seed": request.seed,
        }
        for (positive_id, k), request in requests.items()
    ]
    write_manifest(out / MANIFEST_FILE, rows, NEGATIVE_SET)
    pairs = [(p.path, out / columns[f"{p.id}_0"]["file"]) for p in positives]
    return StageResult(
        figures={
            "pictures": len(rows),
            "positives": len(positives),
            "generic_style": params.generic_style,
            **provenance,
        },
        previews=(sheet("real, negative", pairs, PREVIEW_PAIRS),),
    )
