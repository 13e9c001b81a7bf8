"""The options that most commands share, and the workspace they are about."""

from pathlib import Path
from typing import Annotated

import typer

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.workspace import Workspace

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
