"""`nsync blind`: people choose between two checkpoints without knowing which is which."""

from pathlib import Path
from typing import Annotated

import typer

from nsync_pipeline.cli.options import (
    StyleArgument,
    TrainingSeedOption,
    WorkspaceOption,
    settings_of,
)
from nsync_pipeline.errors import ChoicesError
from nsync_pipeline.files import write_whole
from nsync_pipeline.workspace import BASE

blind = typer.Typer(
    name="blind",
    help="Let people choose between two checkpoints' pictures without names.",
    no_args_is_help=True,
)


@blind.command("make")
def make(
    style: StyleArgument,
    between: Annotated[
        str, typer.Option(help="Two variants, or a variant and `base`, with a comma between.")
    ] = "nsync,lora",
    training_seed: TrainingSeedOption = None,
    pairs: Annotated[int, typer.Option(min=1, help="At most so many pairs.")] = 40,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The HTML file.")] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Write a page of pairs in random order: one file, to open in any browser or to send."""
    place, params = settings_of(workspace)
    from nsync_pipeline.blind.page import blind_page, render_blind_page

    names = [name.strip() for name in between.split(",")]
    if len(names) != 2:
        raise ChoicesError(f"--between names two checkpoints, as `nsync,lora`; found {between!r}")
    for name in names:
        if name != BASE:
            params.variant(name)
    seed = params.training_seed(training_seed)
    page = blind_page(place, style, names[0], names[1], pairs, seed)
    file = output or Path(f"blind-{style}-{page.page_id}.html")
    if file.exists():
        raise ChoicesError(f"{file} is there already: name another by --output")
    write_whole(file, render_blind_page(page))
    print(f"{len(page.pairs)} pairs in {file}")
    print("Open it, choose, save; then: nsync blind read <the saved file>")


@blind.command("read")
def read(
    files: Annotated[list[Path], typer.Argument(help="What the page saved; several people's.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Check files of choices, keep copies in choices/, and say who was chosen."""
    place, params = settings_of(workspace)
    from nsync_pipeline.blind.choices import preferences, read_choices, take_choices

    variants, seeds = list(params.variants), params.training_seeds
    styles = []
    for file in files:
        taken = take_choices(place, file, params.styles, variants, seeds)
        kept_as = taken.kept.relative_to(place.root)
        print(f"{file}: {taken.choices} choices, kept as {kept_as}")
        styles.append(taken.style)
    for style in dict.fromkeys(styles):
        kept = read_choices(place, style, variants, seeds)
        for pair in preferences(kept, style, params.seed, params.evaluation.bootstrap_draws):
            result, rate = pair.preference, pair.preference.win_rate
            print(
                f"{style}: {pair.a} over {pair.b}: chosen in {rate.value:.0%} "
                f"[{rate.low:.0%}, {rate.high:.0%}] of {result.choices} "
                f"({result.wins} won, {result.ties} cannot tell, {result.losses} lost)"
            )
        for file_aside in kept.set_aside:
            print(
                f"{file_aside.file.relative_to(place.root)}: kept, and not counted "
                f"({file_aside.choices} choices): {file_aside.reason}"
            )
    print("The report shows them after `dvc repro`, or once it is made in Dagster")
