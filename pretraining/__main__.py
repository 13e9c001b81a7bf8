"""Pretrain the sketchbook base: ``python -m pretraining``."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nsync_pipeline.sketchbook.folders import WEIGHTS_FOLDER
from pretraining.settings import PretrainingSettings

WORK_FOLDER = Path(".sketchbook")


class Stage(StrEnum):
    """The parts that are trained, in order."""

    VAE = "vae"
    CLIP = "clip"
    UNET = "unet"
    JUDGES = "judges"
    ALL = "all"


def pretrain(
    output: Path = WEIGHTS_FOLDER,
    stage: Stage = Stage.ALL,
    resume: bool = False,
    work: Path = WORK_FOLDER,
    settings: PretrainingSettings | None = None,
    grow_from: Path | None = None,
) -> None:
    """Train a stage, or all of them, and export what is complete to `output`.

    Args:
        output: gets `pipeline/`, `clip/` and `judges/`.
        stage: what to train; the unet needs the finished vae and clip in `work`.
        resume: go on from the checkpoints in `work` instead of starting afresh.
        work: drawn pictures, checkpoints, cached latents, the MLflow database.
        settings: those of the shipped base where None.
        grow_from: the pipeline of an earlier base that the unet starts from.

    Raises:
        FileNotFoundError: the unet is asked for before the vae or clip is finished.
        ValueError: a checkpoint to resume was written under other settings.
    """
    # here, so that `--help` answers at once
    from pretraining.clip import train_clip
    from pretraining.export import export_clip, export_judges, export_pipeline
    from pretraining.judges import train_judges
    from pretraining.unet import train_unet
    from pretraining.vae import train_vae

    settings = settings or PretrainingSettings()
    work.mkdir(parents=True, exist_ok=True)
    if stage in (Stage.VAE, Stage.ALL):
        train_vae(settings, work, resume)
    if stage in (Stage.CLIP, Stage.ALL):
        export_clip(settings, train_clip(settings, work, resume), output / "clip")
    if stage in (Stage.JUDGES, Stage.ALL):
        export_judges(settings, train_judges(settings, work, resume), output / "judges")
    if stage in (Stage.UNET, Stage.ALL):
        for name in ("vae", "clip"):
            if not (work / f"{name}.pt").exists():
                raise FileNotFoundError(
                    f"{work / name}.pt is missing: the unet learns on the latents and from the "
                    f"text encoder of the others; run with --stage {name} first, or --stage all"
                )
        vae = train_vae(settings, work, resume=True)
        clip = train_clip(settings, work, resume=True)
        denoiser = train_unet(settings, work, resume, vae, clip, grow_from)
        export_pipeline(settings, vae, denoiser, output / "pipeline")


def main(
    output: Annotated[Path, typer.Option(help="Folder for the trained base.")] = WEIGHTS_FOLDER,
    stage: Annotated[Stage, typer.Option(help="What to train.")] = Stage.ALL,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoints.")] = False,
    work: Annotated[Path, typer.Option(help="Folder for checkpoints and data.")] = WORK_FOLDER,
    grow_from: Annotated[
        Path | None, typer.Option(help="Pipeline of an earlier base that the unet starts from.")
    ] = None,
) -> None:
    """Pretrain the sketchbook base, or one stage of it."""
    try:
        pretrain(output=output, stage=stage, resume=resume, work=work, grow_from=grow_from)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
