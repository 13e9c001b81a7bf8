"""``nsync export``: a trained variant as a folder to share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nsync_pipeline.cli.options import TrainingSeedOption, WorkspaceOption, find_workspace


class ExportForm(StrEnum):
    """What ``--format`` takes."""

    DIFFUSERS = "diffusers"
    KOHYA = "kohya"
    ALL = "all"


def export(
    style: Annotated[str, typer.Argument(help="A style of params.yaml.")],
    variant: Annotated[str, typer.Option("--variant", "-v", help="A trained variant.")],
    training_seed: TrainingSeedOption = None,
    form: Annotated[
        ExportForm, typer.Option("--format", help="kohya is ComfyUI's and A1111's, too.")
    ] = ExportForm.ALL,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; else exports/<style>/<variant>."),
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Write a trained variant's LoRA for diffusers, ComfyUI and A1111, with a model card."""
    place = find_workspace(workspace)
    from nsync_pipeline.export.folder import default_folder, export_model
    from nsync_pipeline.params import read_params

    params = read_params(place.params_file)
    folder = output or default_folder(place, style, variant, training_seed)
    exported = export_model(place, params, style, variant, form.value, folder, training_seed)
    print(f"{folder}: {len(exported.files)} files")
    for name in exported.files:
        print(f"  {name}")
    for note in exported.notes:
        print(note)
    if params.style(style).rights is None:
        print(
            "The model card says that no right to use the training pictures was stated: "
            f"styles.{style}.rights in params.yaml is where to state it"
        )
