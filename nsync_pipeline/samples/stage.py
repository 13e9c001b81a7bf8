"""generation: the test captions drawn by a variant, or by the untrained base, at fixed seeds.

A picture's seed depends on its caption's picture and its number alone: all trainings and the base
start from the same noise, so that what differs between their pictures is the model.

What is drawn in further ways (``generation.points``) lies in ``points/``, a folder and a manifest
each: whoever reads the artefact's own manifest sees the pictures of ``generation.guidance`` alone.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
from nsync_pipeline.workspace import BASE, BASE_BY_NAME, MANIFEST_FILE, POINTS_FOLDER, trained_files

PREVIEW_PICTURES = 48
PREVIEW_ROWS = 6

Context = StageContext[SamplesSettings] | StageContext[BaseSamplesSettings]


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
    ways, name = context.settings.generation.ways, f"{variant}-{training_seed}"
    _forget_others(context, [way.key for way in ways[1:]])
    drawn = [
        _draw(context, family, words, lora_sha256, way, (POINTS_FOLDER, way.key) if number else ())
        for number, way in enumerate(ways)
    ]
    result = _result(context, words, name, drawn[0])
    if len(ways) == 1:
        return result
    # All rows are of the same captions and seeds in the same order.
    rows = list(zip(*drawn, strict=True))
    preview = sheet(f"{name}, each in {len(ways)} ways", rows, PREVIEW_ROWS, len(ways))
    return StageResult(
        figures={**result.figures, "ways of drawing": len(ways)},
        previews=(*result.previews, preview),
    )


def run_base(context: StageContext[BaseSamplesSettings]) -> StageResult:
    """Draw the test captions with the untrained base, in the generic style; raises as ``run``.

    Where the style has a name that the base may know, once more by that name, into ``points/``.
    """
    context, words = replace(context, variant=BASE), context.settings.generic_style
    family, name = _family(context.settings), context.settings.known_as
    drawn = _draw(context, family, words)
    if name is None:
        return _result(context, words, BASE, drawn)
    by_name = _draw(context, family, name, within=(POINTS_FOLDER, BASE_BY_NAME))
    result = _result(context, words, BASE, drawn)
    pairs = list(zip(drawn, by_name, strict=True))
    preview = sheet(f"{BASE}, asked for {words}, and for {name}", pairs, PREVIEW_ROWS, 2)
    return StageResult(
        figures={**result.figures, "asked by name": name}, previews=(*result.previews, preview)
    )


def _family(settings: SamplesSettings | BaseSamplesSettings) -> Family:
    return load_family(settings.generation.sampler.base(settings.base_model))


def _draw(
    context: Context,
    family: Family,
    words: str,
    lora_sha256: str | None = None,
    guidance: GuidanceConfig = ORDINARY,
    within: Sequence[str] = (),
) -> list[Path]:
    """``images_per_prompt`` pictures of each test caption, in the style that ``words`` name."""
    settings = context.settings.generation
    chosen = captioned_split(context.workspace, context.style, "test")[: settings.prompts]
    drawn = draw_captions(
        context, family, chosen, words, settings.images_per_prompt, settings.sampler,
        stage="generation", stream="sample", lora_sha256=lora_sha256, guidance=guidance,
        within=within,
    )  # fmt: skip
    rows = [
        {**row, "prompt_id": p.id, "caption": p.caption, "variant": context.variant}
        for p, row in drawn
    ]
    folder = context.folder.joinpath(*within)
    write_manifest(folder / MANIFEST_FILE, rows, SAMPLES)
    return [folder / row["file"] for row in rows]


def _forget_others(context: StageContext[SamplesSettings], kept: Sequence[str]) -> None:
    """Remove from scratch what was drawn in ways that are no longer asked for."""
    variant, seed = context.training
    slot = ("generation", context.style, variant, str(seed), POINTS_FOLDER)
    for store in context.workspace.scratch(*slot).glob("*"):
        if store.name not in kept:
            shutil.rmtree(store)


def _result(context: Context, words: str, name: str, files: Sequence[Path]) -> StageResult:
    of_each = context.settings.generation.images_per_prompt
    return StageResult(
        figures={
            "pictures": len(files), "prompts": len(files) // of_each, "in_the_style_of": words
        },
        previews=(sheet(f"samples of {name}", [(file,) for file in files], PREVIEW_PICTURES),),
    )  # fmt: skip
