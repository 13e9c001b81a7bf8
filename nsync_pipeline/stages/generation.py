"""generation: the test captions drawn by a variant, or by the untrained base, at fixed seeds.

A picture's seed depends on its caption's picture and its number alone: all trainings and the base
start from the same noise, so that what differs between their pictures is the model.
"""

from nsync_pipeline.adaptation.placeholder import trained_style_word
from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.artifacts import BASE, MANIFEST_FILE, trained_files
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.generation.prompts import styled_prompt
from nsync_pipeline.generation.sampling import PictureRequest
from nsync_pipeline.image_sets.manifest import SAMPLES, write_manifest
from nsync_pipeline.image_sets.model_sizes import picture_sizes
from nsync_pipeline.seeding import stream_seed
from nsync_pipeline.stages.captioned_split import captioned_split
from nsync_pipeline.stages.context import StageContext, StageResult
from nsync_pipeline.stages.drawn_pictures import draw_set, place_pictures, sheet
from nsync_pipeline.stages.picture_files import file_sha256
from nsync_pipeline.stages.whole_folder import whole_folder

PREVIEW_PICTURES = 48


def run(context: StageContext) -> StageResult:
    """Draw ``generation.images_per_prompt`` pictures for each test caption.

    ``context.variant`` names a variant, whose weights of ``context.training_seed`` are loaded and
    whose prompts name the placeholder; or ``base``, which draws without any in the generic style.

    Raises:
        MissingArtifactError: the style set, its captions, or what the variant trained is missing.
        BaseModelError: the base cannot be loaded, or a picture comes out broken.
    """
    params, workspace, variant = context.params, context.workspace, context.variant
    if variant is None:
        raise ValueError(f"generation needs a variant, or {BASE!r}")
    settings = params.generation
    style = params.style(context.style)
    chosen = captioned_split(workspace, context.style, "test")[: settings.prompts]
    words = style.generic_style
    if variant != BASE:
        params.variant(variant)  # that there is one
        model = workspace.model(context.style, variant, context.training_seed)
        trained = trained_files(model)
        if not trained:
            raise MissingArtifactError(
                f"{model} holds no trained weights: run the training stage of {variant!r} at "
                f"training seed {context.training_seed} first."
            )
        words = trained_style_word(model, style.placeholder)
    family = load_family(params.base_model)
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
    lora_sha256 = None
    if variant != BASE:
        load_trained(family, model)
        lora_sha256 = "+".join(file_sha256(file) for file in trained)
    drawn = draw_set(
        context,
        family,
        list(requests.values()),
        settings.sampler,
        stage="generation",
        lora_sha256=lora_sha256,
    )
    captions = {picture.id: picture.caption for picture in chosen}
    out = workspace.samples(context.style, variant, context.training_seed)
    with whole_folder(out) as folder:
        columns = place_pictures(drawn, folder)
        rows = [
            {
                **columns[request.id],
                "prompt_id": prompt_id,
                "k": k,
                "caption": captions[prompt_id],
                "prompt": request.prompt,
                "seed": request.seed,
                "variant": variant,
            }
            for (prompt_id, k), request in requests.items()
        ]
        write_manifest(folder / MANIFEST_FILE, rows, SAMPLES)
    files = [(out / column["file"],) for column in columns.values()]
    drawn_by = variant if variant == BASE else f"{variant}-{context.training_seed}"
    return StageResult(
        figures={"pictures": len(rows), "prompts": len(chosen), "in_the_style_of": words},
        previews=(sheet(f"samples of {drawn_by}", files, PREVIEW_PICTURES),),
    )
