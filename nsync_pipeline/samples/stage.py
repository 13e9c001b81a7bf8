"""generation: the test captions drawn by a variant, or by the untrained base, at fixed seeds.

A picture's seed depends on its caption's picture and its number alone: all trainings and the base
start from the same noise, so that what differs between their pictures is the model.
"""

from dataclasses import replace

from nsync_pipeline.adaptation.saved_steps import chosen_weights
from nsync_pipeline.adaptation.textual_inversion import trained_style_word
from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.drawing.config import ORDINARY, GuidanceConfig
from nsync_pipeline.drawing.picture_store import draw_captions, sheet
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.files import file_sha256
from nsync_pipeline.pictures.manifest import SAMPLES, write_manifest
from nsync_pipeline.pictures.style_pictures import captioned_split
from nsync_pipeline.samples.config import BaseSamplesSettings, SamplesSettings
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
    model = chosen_weights(
        context.workspace.model(context.style, variant, training_seed),
        context.settings.use_step,
        f"{context.style}, {variant}-{training_seed}",
    )
    trained = trained_files(model)
    if not trained:
        raise MissingArtifactError(
            f"{model} holds no trained weights: run the training stage of {variant!r} at "
            f"training seed {training_seed} first."
        )
    words = trained_style_word(model, context.settings.placeholder)
    family = _family(context.settings)
    load_trained(family, model)
    lora_sha256 = "+".join(file_sha256(file) for file in trained)
    guidance = context.settings.generation.guidance
    return _drawn(context, family, words, f"{variant}-{training_seed}", lora_sha256, guidance)


def run_base(context: StageContext[BaseSamplesSettings]) -> StageResult:
    """Draw the test captions with the untrained base, in the generic style; raises as ``run``."""
    family = _family(context.settings)
    return _drawn(replace(context, variant=BASE), family, context.settings.generic_style, BASE)


def _family(settings: SamplesSettings | BaseSamplesSettings) -> Family:
    return load_family(settings.generation.sampler.base(settings.base_model))


def _drawn(
    context: StageContext[SamplesSettings] | StageContext[BaseSamplesSettings],
    family: Family,
    words: str,
    drawn_by: str,
    lora_sha256: str | None = None,
    guidance: GuidanceConfig = ORDINARY,
) -> StageResult:
    """``images_per_prompt`` pictures of each test caption, in the style that ``words`` name."""
    settings = context.settings.generation
    chosen = captioned_split(context.workspace, context.style, "test")[: settings.prompts]
    drawn = draw_captions(
        context, family, chosen, words, settings.images_per_prompt, settings.sampler,
        stage="generation", stream="sample", lora_sha256=lora_sha256, guidance=guidance,
    )  # fmt: skip
    rows = [
        {**row, "prompt_id": p.id, "caption": p.caption, "variant": context.variant}
        for p, row in drawn
    ]
    write_manifest(context.folder / MANIFEST_FILE, rows, SAMPLES)
    files = [(context.folder / row["file"],) for row in rows]
    return StageResult(
        figures={"pictures": len(rows), "prompts": len(chosen), "in_the_style_of": words},
        previews=(sheet(f"samples of {drawn_by}", files, PREVIEW_PICTURES),),
    )
