"""The options that `nsync generate` and `nsync compare` share, and what they stand for."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nsync_pipeline.errors import ParamsError, UserError
from nsync_pipeline.workspace import Workspace

if TYPE_CHECKING:  # these import torch, and a command is quick without
    from nsync_pipeline.generate.pictures import Manner
    from nsync_pipeline.generate.prompts import AskedPrompt
    from nsync_pipeline.params import Params


class Scheduler(StrEnum):
    """What ``--scheduler`` takes, as `sampler.scheduler` in params.yaml."""

    MODEL = "model"
    DPM = "dpm"
    DDIM = "ddim"
    EULER = "euler"
    PNDM = "pndm"


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
GuidanceOption = Annotated[
    float | None, typer.Option(help="Of classifier-free guidance; 1 is none.")
]
SizeOption = Annotated[
    str | None, typer.Option(metavar="HxW", help="Pixels; else the base's square.")
]


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
    strengths: tuple[float, ...] = (1.0,),
) -> "Manner":
    """How to draw: ``generation.sampler`` of params.yaml, but for what is given.

    Raises:
        UserError: a value is out of range.
    """
    from pydantic import ValidationError

    from nsync_pipeline.drawing.config import SamplerConfig
    from nsync_pipeline.generate.pictures import Manner

    given = {
        "steps": steps,
        "scheduler": None if scheduler is None else scheduler.value,
        "guidance_scale": guidance,
    }
    settings = params.generation.sampler.model_dump()
    settings |= {name: value for name, value in given.items() if value is not None}
    try:
        sampler = SamplerConfig.model_validate(settings)
    except ValidationError as error:
        told = "; ".join(f"{one['loc'][0]}: {one['msg'].lower()}" for one in error.errors())
        raise UserError(f"the sampler cannot be set so: {told}") from error
    return Manner(sampler, None if size is None else _size(size), strengths)


def strengths_of(sweep: str | None, single: float) -> tuple[float, ...]:
    """The strengths of a sweep such as ``0,0.5,1``; without one, the single one.

    Raises:
        UserError: it is not such a list.
    """
    if sweep is None:
        return (single,)
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


TrainingSeedOption = Annotated[
    int | None,
    typer.Option(
        "--training-seed",
        metavar="K",
        help="Which training of a variant; else the first of training_seeds in params.yaml.",
    ),
]


WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        metavar="FOLDER",
        help="Holds params.yaml; else the current folder, or the nearest above it that does.",
    ),
]


def find_workspace(folder: Path | None) -> Workspace:
    """The workspace in ``folder``; where None, the nearest from the current folder upwards.

    Raises:
        ParamsError: there is no params.yaml.
    """
    if folder is not None:
        candidates = [folder.expanduser().absolute()]
    else:
        here = Path.cwd()
        candidates = [here, *here.parents]
    for candidate in candidates:
        if (candidate / "params.yaml").is_file():
            return Workspace(candidate.resolve())
    where = "" if folder is not None else " or any folder above it"
    raise ParamsError(
        f"{candidates[0]}{where} has no params.yaml: "
        "go to the folder of the pipeline, or name it by --workspace."
    )
