"""``nsync generate``: a person's own prompts, drawn."""

from pathlib import Path
from typing import Annotated

import typer

from nsync_pipeline.cli.options import (
    GuidanceOption,
    PromptsOption,
    SchedulerOption,
    SeedOption,
    SeedsOption,
    SizeOption,
    StepsOption,
    TrainingSeedOption,
    WorkspaceOption,
    asked_for,
    find_workspace,
    manner_of,
    next_free,
    strengths_of,
)
from nsync_pipeline.errors import UserError
from nsync_pipeline.workspace import Workspace


def generate(
    prompt: Annotated[
        list[str] | None, typer.Argument(help="What to draw; several are a row each.")
    ] = None,
    prompts: PromptsOption = None,
    style: Annotated[str | None, typer.Option("--style", "-s", help="A style.")] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", "-v", help="A variant, or base.")
    ] = None,
    training_seed: TrainingSeedOption = None,
    lora: Annotated[
        Path | None,
        typer.Option(help="A LoRA's file (ours, diffusers', kohya's), instead of a variant."),
    ] = None,
    lora_scale: Annotated[
        float, typer.Option(min=-100, max=100, help="1 as trained, 0 not at all.")
    ] = 1.0,
    scale_sweep: Annotated[
        str | None,
        typer.Option(metavar="0,0.5,1", help="Each picture at each strength, on one sheet."),
    ] = None,
    seed: SeedOption = None,
    seeds: SeedsOption = 1,
    steps: StepsOption = None,
    scheduler: SchedulerOption = None,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
    again: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw a picture of generate's again.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; else the next free pictures/...")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Draw your own prompts with a trained variant, the base, or a LoRA's file."""
    place = find_workspace(workspace)
    folder = output or next_free(Path("pictures"), variant or "drawn")
    if again is not None:
        if prompt or prompts or style or variant or seed or training_seed is not None:
            raise UserError("--again takes prompt, seed and style from the picture: leave them out")
        _draw_again(place, again, lora, folder)
        return
    from nsync_pipeline.generate.model import drawing_model
    from nsync_pipeline.generate.pictures import generate as draw
    from nsync_pipeline.graph.progress import shown_progress
    from nsync_pipeline.params import read_params

    params = read_params(place.params_file)
    strengths = strengths_of(scale_sweep, lora_scale)
    manner = manner_of(params, steps, scheduler, guidance, size, strengths)
    asked = asked_for(prompt or [], prompts, seed, seeds, params.seed)
    model = drawing_model(place, params, style, variant, lora, training_seed)
    with shown_progress("generate", None) as progress:
        drawn = draw(params, model, asked, folder, manner=manner, progress=progress)
    print(f"{len(drawn.files)} pictures in {folder}; side by side on {drawn.contact_sheet}")


def _draw_again(place: Workspace, picture: Path, lora: Path | None, folder: Path) -> None:
    from nsync_pipeline.generate.model import drawing_model, training_with
    from nsync_pipeline.generate.pictures import draw_again, read_settings
    from nsync_pipeline.graph.progress import shown_progress
    from nsync_pipeline.params import read_params

    params = read_params(place.params_file)
    settings = read_settings(picture)
    variant = None if lora is not None else settings.model
    if variant is not None and variant.endswith(".safetensors"):
        raise UserError(f"{picture} was drawn with {variant}: say where it is by --lora")
    seed = None
    if variant in params.variants and settings.style is not None:
        weights = settings.weights_sha256
        seed = training_with(place, params, settings.style, str(variant), weights)
    model = drawing_model(place, params, settings.style, variant, lora, seed)
    with shown_progress("generate", None) as progress:
        drawn = draw_again(params, settings, picture, model, folder, progress)
    if not drawn.same_base:
        print(f"The base is another than {settings.base_model} ({settings.base_revision})")
    if drawn.largest_difference == 0:
        print(f"{drawn.file}: the same, pixel for pixel")
    else:
        print(f"{drawn.file}: differs by up to {drawn.largest_difference} of 255 levels")
