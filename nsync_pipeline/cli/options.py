"""The options that most commands share, and the workspace they are about."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nsync_pipeline.errors import ParamsError, UserError
from nsync_pipeline.workspace import Workspace

if TYPE_CHECKING:
    from nsync_pipeline.params import Params


def _named(section: str, incomplete: str) -> list[str]:
    """The names in a section of params.yaml that begin so: for the shell, so quick and silent."""
    from nsync_pipeline.settings_file import NAME, read_settings

    try:
        names = read_settings(find_workspace(None).params_file)[section]
        # Names only: what is completed, the shell expands.
        return [name for name in names if NAME.fullmatch(name) and name.startswith(incomplete)]
    except (UserError, KeyError, TypeError):
        return []


def style_names(incomplete: str) -> list[str]:
    return _named("styles", incomplete)


def variant_names(incomplete: str) -> list[str]:
    return _named("variants", incomplete)


def stage_names(incomplete: str) -> list[str]:
    from nsync_pipeline.graph.table import STAGES

    return [name for name in STAGES if name.startswith(incomplete)]


A_STYLE = "A style of params.yaml."
StyleArgument = Annotated[str, typer.Argument(help=A_STYLE, autocompletion=style_names)]
StyleOption = Annotated[
    str, typer.Option("--style", "-s", help=A_STYLE, autocompletion=style_names)
]
VariantOption = Annotated[
    str,
    typer.Option("--variant", "-v", help="A trained variant.", autocompletion=variant_names),
]
TrainingSeedOption = Annotated[
    int | None,
    typer.Option(
        "--training-seed",
        metavar="K",
        help="Which training of a variant; else the first of training_seeds in params.yaml.",
    ),
]
StepOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="The weights that were saved after so many steps."),
]


Where = Literal["local", "ray"]
WhereOption = Annotated[
    Where | None, typer.Option("--on", help="Where; else as executor.kind in params.yaml says.")
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


def run_on(where: Where | None) -> None:
    """Have stages run there, in what this process starts, too."""
    from nsync_pipeline.graph.places import ON

    if where is not None:
        os.environ[ON] = where


def find_workspace(folder: Path | None) -> Workspace:
    """The workspace in ``folder``; where None, the nearest from the current folder upwards.

    Raises:
        ParamsError: there is no params.yaml.
    """
    here = Path.cwd() if folder is None else folder.expanduser().absolute()
    candidates = [here, *here.parents] if folder is None else [here]
    for candidate in candidates:
        if (candidate / "params.yaml").is_file():
            return Workspace(candidate.resolve())
    where = "" if folder is not None else " or any folder above it"
    raise ParamsError(
        f"{here}{where} has no params.yaml: "
        "go to the folder of the pipeline, or name it by --workspace."
    )


def settings_of(folder: Path | None) -> "tuple[Workspace, Params]":
    """The workspace, as ``find_workspace``, and what its params.yaml says; raises as both do."""
    from nsync_pipeline.params import read_params

    workspace = find_workspace(folder)
    return workspace, read_params(workspace.params_file)
