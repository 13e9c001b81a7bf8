"""The option that says which training of a variant is meant."""

from typing import Annotated

import typer

TrainingSeedOption = Annotated[
    int | None,
    typer.Option(
        "--training-seed",
        metavar="K",
        help="Which training of a variant; else the first of training_seeds in params.yaml.",
    ),
]
