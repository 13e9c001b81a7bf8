"""`nsync blind`: people choose between two checkpoints without knowing which is which."""

from pathlib import Path
from typing import Annotated

import typer

from nsync_pipeline.cli.options import TrainingSeedOption, WorkspaceOption, find_workspace
from nsync_pipeline.errors import ChoicesError

blind = typer.Typer(
    name="blind",
    help="Let people choose between two checkpoints' pictures without names.",
    no_args_is_help=True,
)


@blind.command("make")
def make(
    style: Annotated[str, typer.Argument(help="A style of params.yaml.")],
    between: Annotated[
        str, typer.Option(help="Two variants, or a variant and `base`, with a comma between.")
    ] = "nsync,lora",
    training_seed: TrainingSeedOption = None,
    pairs: Annotated[int, typer.Option(min=1, help="At most so many pairs.")] = 40,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The HTML file.")] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Write a page of pairs in random order: one file, to open in any browser or to send."""
    place = find_workspace(workspace)
    from nsync_pipeline.blind.page import blind_page, render_blind_page
    from nsync_pipeline.params import read_params

    params = read_params(place.params_file)
    names = [name.strip() for name in between.split(",")]
    if len(names) != 2:
        raise ChoicesError(f"--between names two checkpoints, as `nsync,lora`; found {between!r}")
    page = blind_page(place, params, style, names[0], names[1], pairs, training_seed)
    file = output or Path(f"blind-{style}-{page.page_id}.html")
    if file.exists():
        raise ChoicesError(f"{file} is there already: name another by --output")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render_blind_page(page), encoding="utf-8", newline="\n")
    print(f"{len(page.pairs)} pairs in {file}")
    print("Open it, choose, save; then: nsync blind read <the saved file>")


@blind.command("read")
def read(
    files: Annotated[list[Path], typer.Argument(help="What the page saved; several people's.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Check files of choices, keep copies in choices/, and say who was chosen."""
    place = find_workspace(workspace)
    from nsync_pipeline.blind.choices import preferences, read_choices, take_choices
    from nsync_pipeline.params import read_params

    params = read_params(place.params_file)
    styles = []
    for file in files:
        taken = take_choices(place, params, file)
        kept = taken.kept.relative_to(place.root)
        print(f"{file}: {taken.choices} choices, kept as {kept}")
        styles.append(taken.style)
    for style in dict.fromkeys(styles):
        kept_choices = read_choices(place, style, list(params.variants), params.training_seeds)
        for found in preferences(
            kept_choices, style, params.seed, params.evaluation.bootstrap_draws
        ):
            told, rate = found.told, found.told.win_rate
            print(
                f"{style}: {found.a} over {found.b}: chosen in {rate.value:.0%} "
                f"[{rate.low:.0%}, {rate.high:.0%}] of {told.choices} "
                f"({told.wins} won, {told.ties} cannot tell, {told.losses} lost)"
            )
        if kept_choices.outdated:
            print(
                f"{style}: not counted: {kept_choices.outdated} files in choices/{style} whose "
                "pictures were drawn again since, or whose variant is gone"
            )
    print("The report shows them after `dvc repro`, or once it is made in Dagster")
