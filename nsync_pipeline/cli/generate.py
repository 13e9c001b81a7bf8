"""``nsync generate`` and ``nsync compare``: a person's own prompts, drawn."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nsync_pipeline.cli.options import (
    StepOption,
    StyleOption,
    TrainingSeedOption,
    WorkspaceOption,
    settings_of,
    style_names,
    variant_names,
)
from nsync_pipeline.errors import UserError

if TYPE_CHECKING:  # these import torch, and a command is quick without
    from nsync_pipeline.generate.pictures import Manner
    from nsync_pipeline.generate.prompts import AskedPrompt
    from nsync_pipeline.params import Params


Scheduler = Literal["model", "dpm", "ddim", "euler", "pndm"]
"""What ``--scheduler`` takes, as `sampler.scheduler` in params.yaml."""
GuidanceForm = Literal["ordinary", "base_empty", "difference"]
"""What ``--guidance-form`` takes, as `generation.guidance.form` in params.yaml."""

PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help='A prompt a line; or .jsonl with {"prompt": ..., "seed": ...} a line.',
    ),
]
SeedOption = Annotated[list[int] | None, typer.Option(help="May be given several times.")]
SeedsOption = Annotated[
    int,
    typer.Option(
        "--seeds", "--images", min=1, max=10_000, metavar="N",
        help="So many pictures a prompt: seeds count up from --seed.",
    ),
]  # fmt: skip
StepsOption = Annotated[int | None, typer.Option(help="Denoising steps.")]
SchedulerOption = Annotated[Scheduler | None, typer.Option(help="dpm is DPM-Solver++ 2M.")]
ScaleOption = Annotated[
    float | None,
    typer.Option(min=-100, max=100, help="Of the LoRA: 1 as trained, 0 not at all."),
]
GuidanceOption = Annotated[
    float | None, typer.Option(help="Of classifier-free guidance; 1 is none.")
]
FormOption = Annotated[
    GuidanceForm | None,
    typer.Option(
        "--guidance-form",
        help="base_empty: the empty prompt by the frozen base; difference: the base's own guidance "
        "and --guidance-weight times what the LoRA changes.",
    ),
]
WeightOption = Annotated[
    float | None, typer.Option("--guidance-weight", help="Of the form difference.")
]
SizeOption = Annotated[
    str | None, typer.Option(metavar="HxW", help="Pixels; else the base's square.")
]


def generate(
    prompt: Annotated[
        list[str] | None, typer.Argument(help="What to draw; several are a row each.")
    ] = None,
    prompts: PromptsOption = None,
    style: Annotated[
        str | None,
        typer.Option("--style", "-s", help="A style.", autocompletion=style_names),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", "-v", help="A variant, or base.", autocompletion=variant_names),
    ] = None,
    training_seed: TrainingSeedOption = None,
    step: StepOption = None,
    lora: Annotated[
        Path | None,
        typer.Option(help="A LoRA's file (ours, diffusers', kohya's), instead of a variant."),
    ] = None,
    lora_scale: ScaleOption = None,
    scale_sweep: Annotated[
        str | None,
        typer.Option(metavar="0,0.5,1", help="Each picture at each strength, on one sheet."),
    ] = None,
    seed: SeedOption = None,
    seeds: SeedsOption = 1,
    steps: StepsOption = None,
    scheduler: SchedulerOption = None,
    guidance: GuidanceOption = None,
    guidance_form: FormOption = None,
    guidance_weight: WeightOption = None,
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
    folder = output or next_free(Path("pictures"), variant or "drawn")
    if again is not None:
        if prompt or prompts or style or variant or seed or (step, training_seed) != (None, None):
            raise UserError("--again takes prompt, seed and style from the picture: leave them out")
        _draw_again(workspace, again, lora, folder)
        return
    place, params = settings_of(workspace)
    from nsync_pipeline.generate.model import drawing_model
    from nsync_pipeline.generate.pictures import generate as draw
    from nsync_pipeline.graph.progress import shown_progress

    asked = asked_for(prompt or [], prompts, seed, seeds, params.seed)
    if step is not None:
        if variant is None:
            raise UserError("--step names weights of a variant's training: say which by --variant")
        variant = f"{variant}@{step}"
    model = drawing_model(place, params, style, variant, lora, training_seed)
    manner = manner_of(
        params, steps, scheduler, guidance, size, strengths_of(scale_sweep, lora_scale),
        guidance_form, guidance_weight, of_base=model.place is None,
    )  # fmt: skip
    with shown_progress("generate", None) as progress:
        drawn = draw(params, model, asked, folder, manner=manner, progress=progress)
    print(f"{len(drawn.files)} pictures in {folder}; side by side on {drawn.contact_sheet}")


def _draw_again(workspace: Path | None, picture: Path, lora: Path | None, folder: Path) -> None:
    place, params = settings_of(workspace)
    from nsync_pipeline.generate.model import drawing_model, training_with, variant_and_step
    from nsync_pipeline.generate.pictures import draw_again, read_settings
    from nsync_pipeline.graph.progress import shown_progress

    settings = read_settings(picture)
    variant = None if lora is not None else settings.model
    if variant is not None and variant.endswith(".safetensors"):
        raise UserError(f"{picture} was drawn with {variant}: say where it is by --lora")
    seed = None
    name = None if variant is None else variant_and_step(variant)[0]
    if name in params.variants and settings.style is not None:
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


def compare(
    style: StyleOption,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="What to draw, without the style; several times."),
    ] = None,
    prompts: PromptsOption = None,
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="base,lora,nsync@50,nsync",
            help="The columns, a variant at a step that it saved as nsync@50; else all that are "
            "trained.",
        ),
    ] = None,
    training_seed: TrainingSeedOption = None,
    lora_scale: ScaleOption = None,
    seed: SeedOption = None,
    seeds: SeedsOption = 1,
    steps: StepsOption = None,
    scheduler: SchedulerOption = None,
    guidance: GuidanceOption = None,
    guidance_form: FormOption = None,
    guidance_weight: WeightOption = None,
    size: SizeOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Else the next free in comparisons."),
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Draw the same prompts and seeds by the base and each variant, side by side."""
    place, params = settings_of(workspace)
    from nsync_pipeline.generate.compare import compare as draw
    from nsync_pipeline.graph.progress import shown_progress

    manner = manner_of(
        params, steps, scheduler, guidance, size, strengths_of(None, lora_scale), guidance_form,
        guidance_weight,
    )  # fmt: skip
    asked = asked_for(prompt or [], prompts, seed, seeds, params.seed)
    file = output or next_free(Path("comparisons"), style, ".png")
    names = [name.strip() for name in (variants or "").split(",") if name.strip()]
    with shown_progress("compare", None) as progress:
        drawn = draw(
            place, params, style, asked, file, variants=names, training_seed=training_seed,
            manner=manner, progress=progress,
        )  # fmt: skip
    print(f"{file}: {drawn.rows} rows, drawn by {', '.join(drawn.columns)}")


def asked_for(
    prompts: Sequence[str],
    file: Path | None,
    seed: Sequence[int] | None,
    seeds: int,
    default_seed: int,
) -> "list[AskedPrompt]":
    """The prompts of the arguments and of the file, at the seeds.

    Raises:
        UserError: there are no prompts, or one or a seed cannot be used.
    """
    from nsync_pipeline.generate.prompts import asked_prompts, read_prompts

    starts = list(seed or [default_seed])
    if len(starts) > 1 and seeds > 1:
        raise UserError("several --seed are all the seeds there are: leave out --seeds")
    every = starts if len(starts) > 1 else [starts[0] + number for number in range(seeds)]
    asked = asked_prompts(prompts, every)
    if file is not None:
        asked += read_prompts(file, every)
    if not asked:
        raise UserError("say what to draw: prompts as arguments, or --prompts FILE")
    return asked


def manner_of(
    params: "Params",
    steps: int | None,
    scheduler: Scheduler | None,
    guidance: float | None,
    size: str | None,
    strengths: tuple[float, ...] | None = None,
    form: GuidanceForm | None = None,
    weight: float | None = None,
    of_base: bool = False,
) -> "Manner":
    """How to draw: ``generation`` of params.yaml, but for what is given.

    Of the base, which nothing was put on, its guidance does not count.

    Raises:
        UserError: a value is out of range, or has no effect.
    """
    from pydantic import ValidationError

    from nsync_pipeline.generate.pictures import Manner
    from nsync_pipeline.samples.config import GenerationConfig

    settings = params.generation.model_dump(exclude={"points"})
    given = {"steps": steps, "scheduler": scheduler, "guidance_scale": guidance}
    settings["sampler"] |= {name: value for name, value in given.items() if value is not None}
    if of_base:
        del settings["guidance"]
    own = {} if of_base else settings["guidance"]
    if form is not None and form != own.get("form"):
        own = {"lora_strength": own.get("lora_strength", 1.0), "form": form}
    settings["guidance"] = own | ({} if weight is None else {"weight": weight})
    try:
        manner = Manner.of(GenerationConfig.model_validate(settings))
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, one['loc'][1:] or one['loc']))}: "
            f"{one['msg'].removeprefix('Value error, ').lower()}".lstrip(": ")
            for one in error.errors()
        )
        raise UserError(f"the sampler cannot be set so: {told}") from error
    return replace(
        manner,
        size=None if size is None else _size(size),
        strengths=manner.strengths if strengths is None else strengths,
    )


def strengths_of(sweep: str | None, single: float | None) -> tuple[float, ...] | None:
    """The strengths of a sweep such as ``0,0.5,1``, else the single one; None where neither is.

    Raises:
        UserError: it is not such a list.
    """
    if sweep is None:
        return None if single is None else (single,)
    try:
        values = tuple(dict.fromkeys(float(part) for part in sweep.split(",")))
    except ValueError as error:
        raise UserError(
            f"--scale-sweep {sweep}: numbers with commas are needed: 0,0.5,1"
        ) from error
    if not all(abs(value) <= 100 for value in values):
        raise UserError(f"--scale-sweep {sweep}: a strength is from -100 to 100")
    return values


def next_free(folder: Path, name: str, ending: str = "") -> Path:
    """``<folder>/<name>_001<ending>``, or the next number that is free."""
    number = 1
    while (free := folder / f"{name}_{number:03d}{ending}").exists():
        number += 1
    return free


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if found is None:
        raise UserError(f"--size {text}: height and width in pixels are needed, such as 512x768")
    return int(found[1]), int(found[2])
