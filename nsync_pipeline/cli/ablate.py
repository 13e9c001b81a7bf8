"""``nsync ablate``: the settings of the section ``ablation`` compared on one style."""

from typing import TYPE_CHECKING, Annotated

import typer

from nsync_pipeline.cli.place import WorkspaceOption, find_workspace
from nsync_pipeline.errors import UserError

if TYPE_CHECKING:
    from nsync_pipeline.params import Params
    from nsync_pipeline.pipeline.ablation import Ablation


def ablate(
    style: Annotated[str, typer.Argument(help="A style of params.yaml.")],
    only: Annotated[
        str | None, typer.Option(metavar="V,V", help="Only these variants, with commas between.")
    ] = None,
    training_seeds: Annotated[
        str | None,
        typer.Option(metavar="K,K", help="Other seeds than ablation.training_seeds says."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained.")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Train every variant of the section `ablation` on a style, and compare them in one report."""
    place = find_workspace(workspace)
    from nsync_pipeline.cli.shared_artefacts import make_shared
    from nsync_pipeline.pipeline.ablation import Ablation, Asked, pending_steps, run_ablation

    seeds = None if training_seeds is None else _seeds(training_seeds)
    names = None if only is None else tuple(name.strip() for name in only.split(","))
    ablation = Ablation(place, style, Asked(names, seeds))
    params = ablation.params()
    for note in params.ablation_matrix().notes:
        print(note)
    print(_counted(ablation, params), flush=True)
    from nsync_pipeline.cli.ablation_summary import print_plan, print_summary

    if dry_run:
        print_plan(params, pending_steps(ablation, params))
        return
    outcome = run_ablation(ablation, make_shared)
    print_summary(ablation, params, outcome)


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) < 2**31 for part in parts):
        raise UserError(f"--training-seeds {text}: whole numbers with commas are needed: 0,1,2")
    seeds = tuple(int(part) for part in parts)
    return tuple(dict.fromkeys(seeds))


def _counted(ablation: "Ablation", params: "Params") -> str:
    variants, seeds = len(params.variants), len(params.training_seeds)
    return (
        f"ablation of {ablation.style}: {variants} {_plural('variant', variants)}, "
        f"{seeds} training {_plural('seed', seeds)}, "
        f"{variants * seeds} {_plural('training', variants * seeds)}"
    )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
