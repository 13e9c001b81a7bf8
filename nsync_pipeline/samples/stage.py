"""generation: the test captions drawn by a variant, or by the untrained base, at fixed seeds.

A picture's seed depends on its caption's picture and its number alone: all trainings and the base
start from the same noise, so that what differs between their pictures is the model.
"""

from dataclasses import replace

from nsync_pipeline.adaptation.textual_inversion import trained_style_word
from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.drawing.picture_store import draw_set, place_pictures, sheet
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.drawing.sampling import PictureRequest
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.files import file_sha256
from nsync_pipeline.pictures.manifest import SAMPLES, write_manifest
from nsync_pipeline.pictures.pixels import picture_sizes
from nsync_pipeline.pictures.style_pictures import captioned_split
from nsync_pipeline.samples.config import BaseSamplesSettings, SamplesSettings
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.stage import StageContext, StageResult
from nsync_pipeline.workspace import BASE, MANIFEST_FILE, trained_files

PREVIEW_PICTURES = 48


def run(context: StageContext[SamplesSettings]) -> StageResult:
    """Draw the test captions with the weights of one training; the prompts name the placeholder.

    Raises:
        MissingArtifactError: the style set, its captions, or what was trained is missing.
        BaseModelError: the base cannot be loaded, or a picture comes out broken.
    """
    variant, training_seed = context.training
    model = context.workspace.model(context.style, variant, training_seed)
    trained = trained_files(model)
    if not trained:
        raise MissingArtifactError(
            f"{model} holds no trained weights: run the training stage of {variant!r} at "
            f"training seed {training_seed} first."
        )
    words = trained_style_word(model, context.settings.placeholder)
    family = load_family(context.settings.base_model)
    load_trained(family, model)
    lora_sha256 = "+".join(file_sha256(file) for file in trained)
    return _drawn(context, family, words, f"{variant}-{training_seed}", lora_sha256)


def run_base(context: StageContext[BaseSamplesSettings]) -> StageResult:
    """Draw the test captions with the untrained base, in the generic style; raises as ``run``."""
    family = load_family(context.settings.base_model)
    return _drawn(replace(context, variant=BASE), family, context.settings.generic_style, BASE)


def _drawn(
    context: StageContext[SamplesSettings] | StageContext[BaseSamplesSettings],
    family: Family,
    words: str,
    drawn_by: str,
    lora_sha256: str | None = None,
) -> StageResult:
    """``images_per_prompt`` pictures of each test caption, in the style that ``words`` name."""
    params, out = context.settings, context.folder
    settings = params.generation
    chosen = captioned_split(context.workspace, context.style, "test")[: settings.prompts]
    sizes = picture_sizes(family, params.base_model.aspect_buckets)
    requests = {
        (picture.id, k): PictureRequest(
            id=f"{picture.id}_{k}",
            prompt=styled_prompt(picture.caption, words),
            seed=stream_seed(params.seed, "sample", picture.id, k),
            size=sizes.asked_for(picture.width, picture.height),
        )
        for picture in chosen
        for k in range(settings.images_per_prompt)
    }
    drawn = draw_set(
        context, family, list(requests.values()), settings.sampler, "generation", lora_sha256
    )
    captions = {picture.id: picture.caption for picture in chosen}
    columns = place_pictures(drawn, out)
    rows = [
        {
            **columns[request.id],
            "prompt_id": prompt_id,
            "k": k,
            "caption": captions[prompt_id],
            "prompt": request.prompt,
            "seed": request.seed,
            "variant": context.variant,
        }
        for (prompt_id, k), request in requests.items()
    ]
    write_manifest(out / MANIFEST_FILE, rows, SAMPLES)
    files = [(out / column["file"],) for column in columns.values()]
    return StageResult(
        figures={"pictures": len(rows), "prompts": len(chosen), "in_the_style_of": words},
        previews=(sheet(f"samples of {drawn_by}", files, PREVIEW_PICTURES),),
    )
