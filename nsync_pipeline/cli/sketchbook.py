"""``nsync sketchbook``: the embedded base's own commands, taken over with their options."""

import importlib
import sys
from typing import Annotated

import typer

sketchbook = typer.Typer(help="The embedded base: how it is made, how good it is.")

# The options are the module's own, so that they are said once; it is imported only now, as it
# imports torch.
PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="[OPTIONS]", help="--help lists them.")
]


@sketchbook.command(context_settings=PASS_ON)
def pretrain(arguments: Arguments = None) -> None:
    """Train the embedded base, or go on with it."""
    _pass_on("pretraining", "pretrain", arguments)


@sketchbook.command(context_settings=PASS_ON)
def quality(arguments: Arguments = None) -> None:
    """Measure the embedded base on fresh prompts."""
    _pass_on("quality", "quality", arguments)


def _pass_on(module: str, command: str, arguments: list[str] | None) -> None:
    function = importlib.import_module(f"nsync_pipeline.sketchbook.{module}").main
    inner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    inner.command()(function)
    sys.exit(inner(arguments or [], prog_name=f"nsync sketchbook {command}"))
