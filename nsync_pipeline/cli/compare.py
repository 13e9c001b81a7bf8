"""``nsync compare``: base, plain LoRA and NSYNC side by side."""

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
)


def compare(
    style: Annotated[str, typer.Option("--style", "-s", help="A style of params.yaml.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="What to draw, without the style; several times."),
    ] = None,
    prompts: PromptsOption = None,
    variants: Annotated[
        str | None,
        typer.Option(metavar="base,lora,nsync", help="The columns; else all that are trained."),
    ] = None,
    training_seed: TrainingSeedOption = None,
    lora_scale: Annotated[
        float, typer.Option(min=-100, max=100, help="1 as trained, 0 not at all.")
    ] = 1.0,
    seed: SeedOption = None,
    seeds: SeedsOption = 1,
    steps: StepsOption = None,
    scheduler: SchedulerOption = None,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Else the next free in comparisons."),
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Draw the same prompts and seeds by the base and each variant, side by side."""
    place = find_workspace(workspace)
    from nsync_pipeline.generate.compare import compare as draw
    from nsync_pipeline.graph.progress import shown_progress
    from nsync_pipeline.params import read_params

    params = read_params(place.params_file)
    manner = manner_of(params, steps, scheduler, guidance, size, (lora_scale,))
    asked = asked_for(prompt or [], prompts, seed, seeds, params.seed)
    file = output or next_free(Path("comparisons"), style, ".png")
    names = [name.strip() for name in (variants or "").split(",") if name.strip()]
    with shown_progress("compare", None) as progress:
        drawn = draw(
            place,
            params,
            style,
            asked,
            file,
            variants=names,
            training_seed=training_seed,
            manner=manner,
            progress=progress,
        )
    print(f"{file}: {drawn.rows} rows, drawn by {', '.join(drawn.columns)}")
