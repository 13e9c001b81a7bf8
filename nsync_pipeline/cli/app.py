"""The commands. What they do is in the packages they call, imported only when a command runs."""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nsync_pipeline import __version__
from nsync_pipeline.cli.ablate import ablate, part_of
from nsync_pipeline.cli.blind import blind
from nsync_pipeline.cli.generate import compare, generate
from nsync_pipeline.cli.options import (
    StepOption,
    StyleArgument,
    StyleOption,
    TrainingSeedOption,
    VariantOption,
    WhereOption,
    WorkspaceOption,
    find_workspace,
    run_on,
    settings_of,
    stage_names,
    style_names,
    variant_names,
)
from nsync_pipeline.errors import UserError
from nsync_pipeline.files import refusal
from nsync_pipeline.terminal import only_shown

if TYPE_CHECKING:
    from nsync_pipeline.graph.run import Outcome

app = typer.Typer(
    name="nsync",
    help="Teach a text-to-image model a style by contrast with negative synthetic images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(blind, name="blind")

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""


def main() -> None:
    """Run the command; a mistake of the user's is one message, not a traceback.

    So is what the machine refuses: a disk that is read-only, a file that is another user's.
    """
    with only_shown():
        _run()


def _run() -> None:
    try:
        app()
    except UserError as error:
        print(f"nsync: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # what reads this output has ended, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        print(f"nsync: {refusal(error)}", file=sys.stderr)
        sys.exit(UserError.exit_code)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print("nsync: stopped; the same command goes on from here", file=sys.stderr)
        raise


@app.callback(invoke_without_command=True)
def nsync(
    version: Annotated[bool, typer.Option("--version", help="Say the version, and end.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    stage: Annotated[
        str,
        typer.Argument(help="A stage; a wrong name lists them.", autocompletion=stage_names),
    ],
    style: StyleOption,
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant",
            "-v",
            help="For stages that run once a training.",
            autocompletion=variant_names,
        ),
    ] = None,
    training_seed: TrainingSeedOption = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="NSYNC_PROCESSES",
            help="For training: so many share each step's samples, on a GPU each.",
        ),
    ] = 1,
    force: Annotated[bool, typer.Option("--force", help="Make it even where it is fresh.")] = False,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="A training of the section `ablation`.")
    ] = False,
    recipe: Annotated[int | None, typer.Option(hidden=True, help="As dvc.yaml has it.")] = None,
    only: Annotated[str | None, typer.Option(hidden=True, help="As of `nsync ablate`.")] = None,
    training_seeds: Annotated[
        str | None, typer.Option(hidden=True, help="As of `nsync ablate`.")
    ] = None,
    on: WhereOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Bring one artefact up to date, as `dvc repro` and Dagster do."""
    place = find_workspace(workspace)
    run_on(on)
    from nsync_pipeline.graph.artefacts import AblationPart
    from nsync_pipeline.graph.run import Asked, run_in_processes, run_stage
    from nsync_pipeline.ranks import this_rank

    if processes > 1 and stage != "training" and "NSYNC_PROCESSES" not in os.environ:
        raise UserError(f"--processes {processes}: only training takes several, {stage} does not")
    part = AblationPart(*part_of(only, training_seeds))
    asked = Asked(stage, style, variant, training_seed, ablation, force, recipe, processes, part)
    if processes > 1 and stage == "training" and this_rank().count == 1:
        run_in_processes(place, asked)
        return
    outcome = run_stage(place, asked)
    if outcome is not None:
        _print_outcome(outcome)


def _print_outcome(outcome: "Outcome") -> None:
    print(outcome.artefact.title + ("" if outcome.is_new else ": up to date, nothing to do"))
    if outcome.is_new:
        _print_figures(outcome.made.figures)


def _print_figures(figures: Mapping[str, object]) -> None:
    for name, value in figures.items():
        print(f"  {name}: {value}")


@app.command()
def make(
    style: Annotated[str, typer.Argument(help="A style of params.yaml.")],
    variant: Annotated[
        list[str] | None, typer.Option("--variant", "-v", help="Only this one; several times.")
    ] = None,
    training_seed: Annotated[
        list[int] | None,
        typer.Option("--training-seed", metavar="K", help="Only this one; several times."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="The last stage that is made.")] = None,
    on: WhereOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Make a style whole without Dagster or DVC: as many artefacts at once as `executor` says."""
    place = find_workspace(workspace)
    run_on(on)
    from nsync_pipeline.graph.whole import make_whole

    say = partial(print, flush=True)
    outcomes = make_whole(place, style, variant or (), training_seed or (), until, say)
    print(f"{sum(outcome.is_new for outcome in outcomes)} of {len(outcomes)} artefacts made")


@app.command()
def submit(
    what: Annotated[
        str, typer.Argument(help="A style, to be made whole; or a stage, with --style.")
    ],
    style: Annotated[
        str | None,
        typer.Option("--style", "-s", help="Of the stage.", autocompletion=style_names),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", "-v", help="Of the stage.", autocompletion=variant_names),
    ] = None,
    training_seed: TrainingSeedOption = None,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="A stage of the section `ablation`.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Make it even where it is fresh.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Bring a style, or one artefact, up to date by jobs on the cluster of executor.ray."""
    if style is not None:
        run(what, style, variant, training_seed, 1, force, ablation, on="ray", workspace=workspace)
        return
    if force or ablation:
        raise UserError(
            f"{what} is taken for a style, which is made whole: --force and --ablation go with a "
            "stage (nsync submit training --style monet --variant nsync)"
        )
    variants = [] if variant is None else [variant]
    seeds = [] if training_seed is None else [training_seed]
    make(what, variants, seeds, on="ray", workspace=workspace)


@app.command()
def repro(on: WhereOption = None, workspace: WorkspaceOption = None) -> None:
    """Bring every style up to date, and have DVC record it; side by side where `executor` says."""
    place = find_workspace(workspace)
    run_on(on)
    from nsync_pipeline.graph.artefacts import Graph
    from nsync_pipeline.graph.run import require_own_engine
    from nsync_pipeline.graph.whole import chosen, make_all

    require_own_engine(place)
    graph = Graph.read(place)
    artefacts = [artefact for style in graph.params.styles for artefact in chosen(graph, style)]
    make_all(place, artefacts, partial(print, flush=True))
    os.chdir(place.root)
    os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro"])


@app.command()
def status(
    style: Annotated[
        str | None,
        typer.Argument(help="A style; all of them where none.", autocompletion=style_names),
    ] = None,
    ablation: Annotated[bool, typer.Option("--ablation", help="Of the ablation.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Say what is there, what is out of date, and why."""
    place = find_workspace(workspace)
    from nsync_pipeline.graph.artefacts import Graph, State
    from nsync_pipeline.graph.progress import running

    graph = Graph.read(place)
    styles = list(graph.params.styles)
    if style is not None:
        graph.params.style(style)
        styles = [style]
    for line in running(place).values():
        print(f"running  {line}")
    standings = graph.standings(styles, ablation)
    for artefact, standing in standings.items():
        if standing.state in (State.STALE, State.MISSING):
            print(f"{standing.state.value:8} {artefact.title}: {standing.why}")
    counts = Counter(standing.state for standing in standings.values())
    print(", ".join(f"{counts[state]} {state.value}" for state in State if counts[state]))


@app.command("add-style")
def add_style(
    name: Annotated[str, typer.Argument(help="Its name: lower-case letters, digits and _.")],
    source: Annotated[
        str, typer.Argument(help="A folder of pictures, or sketchbook:<held-out style>.")
    ],
    placeholder: Annotated[
        str, typer.Option(help="The word that names the style in prompts.")
    ] = "sks",
    generic_style: Annotated[
        str, typer.Option(help="The class word the negatives are drawn in.")
    ] = "painting",
    known_as: Annotated[
        str | None,
        typer.Option(help="The artist's name, if the base may know it: asked for in the report."),
    ] = None,
    style_word: Annotated[
        list[str] | None,
        typer.Option(help="Taken out of its captions, as the artist's name; several times."),
    ] = None,
    captioned_only: Annotated[
        bool, typer.Option("--captioned-only", help="Leave pictures without a caption out.")
    ] = False,
    pictures: Annotated[
        int | None, typer.Option(min=1, help="How many to draw; for a sketchbook source.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Add new pictures to a style that is there.")
    ] = False,
    exclude_bad: Annotated[
        bool, typer.Option("--exclude-bad", help="Files that cannot be used: leave them out.")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Bring a style in: its pictures into sources/, its settings into params.yaml."""
    place = find_workspace(workspace)
    from nsync_pipeline.add_style import NewStyle
    from nsync_pipeline.add_style import add_style as bring_in
    from nsync_pipeline.captions.config import WAYS_OUT
    from nsync_pipeline.doctor.findings import captioner_finding
    from nsync_pipeline.graph.dvc import DVC_FILE, sync_dvc_file, version_source
    from nsync_pipeline.graph.progress import shown_progress
    from nsync_pipeline.params import read_params

    asked = NewStyle(
        name, source, placeholder, generic_style, tuple(style_word or ()), known_as, pictures,
        captioned_only, update, exclude_bad,
    )  # fmt: skip
    with shown_progress(f"add-style · {name}", None) as progress:
        added = bring_in(place, asked, progress)
    print(f"{name}: in params.yaml; {added.copied} files brought into {added.folder}")
    _print_figures(added.figures)
    if added.described_by is not None:
        print(
            f"Pictures without a caption are described by {added.described_by} (captioning); "
            f"what you write in {added.folder} (picture.txt beside picture.jpg) goes before it"
        )
        captioner = captioner_finding(read_params(place.params_file))
        if captioner.advice:  # it is not here
            print(f"{captioner.found}: without a network, {WAYS_OUT.format(style=name)}")
    if added.on_embedded_base:
        print(
            "Before you train: the embedded base has never seen a real picture, so this shows that "
            "the pipeline runs, and not the style. Name a Stable Diffusion model as base_model in "
            "params.yaml, and a full CLIP as evaluation.extractor"
        )
    lines = sync_dvc_file(place) if (place.root / DVC_FILE).is_file() else []
    lines += version_source(place, added.folder) if added.is_folder else []
    for line in lines:
        print(line)
    print("Next: `dvc repro`, or the style's job in Dagster")


app.command()(generate)
app.command()(compare)


@app.command()
def export(
    style: StyleArgument,
    variant: VariantOption,
    training_seed: TrainingSeedOption = None,
    form: Annotated[
        Literal["diffusers", "kohya", "all"],
        typer.Option("--format", help="kohya is ComfyUI's and A1111's, too."),
    ] = "all",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; else exports/<style>/<variant>."),
    ] = None,
    workspace: WorkspaceOption = None,
    author: Annotated[
        str | None, typer.Option(help="Who shares it, for the metadata of its files.")
    ] = None,
    step: StepOption = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload it to this repository of the hub, too."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: not private, where it is new.")
    ] = False,
) -> None:
    """Write a trained variant's LoRA for diffusers, ComfyUI and A1111, with a model card."""
    if public and push is None:
        raise UserError("--public is about what --push uploads: say where to")
    place, params = settings_of(workspace)
    from nsync_pipeline.export.folder import default_folder, export_model

    folder = output or default_folder(place, style, variant, training_seed, step)
    exported = export_model(
        place, params, style, variant, form, folder, training_seed, author, step
    )
    print(f"{folder}: {len(exported.files)} files")
    for name in exported.files:
        print(f"  {name}" + (f": {exported.readers[name]}" if name in exported.readers else ""))
    for note in exported.notes:
        print(note)
    if params.style(style).rights is None:
        print(
            "The model card says that no right to use the training pictures was stated: "
            f"styles.{style}.rights in params.yaml is where to state it"
        )
    if push is not None:
        from nsync_pipeline.export.hub import push as upload

        pushed = upload(folder, exported.files, push, public=public)
        private = "" if public else ", private"
        state = f"a new repository{private}" if pushed.is_new else "as public as it was before"
        print(f"{pushed.url}: {state}")


app.command()(ablate)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Becomes a workspace; may be new.")],
) -> None:
    """Make a workspace: settings, a place for pictures, git, DVC and Dagster set up."""
    from nsync_pipeline.new_workspace import init_workspace

    for line in init_workspace(folder):
        print(line)
    print(
        f"{folder} is a workspace. In it: nsync add-style NAME FOLDER, then dvc repro or nsync ui"
    )


@app.command()
def ui(workspace: WorkspaceOption = None) -> None:
    """Start the Dagster and MLflow pages of the workspace, until Ctrl-C."""
    from importlib.util import find_spec

    place = find_workspace(workspace)
    if find_spec("nsync_assets") is None or find_spec("dagster") is None:
        raise UserError("the pages need Dagster: pip install 'nsync-pipeline[orchestration]'")
    command = [sys.executable, "-m", "nsync_assets.pages"]
    os.chdir(place.root)
    os.execv(sys.executable, command)


@app.command()
def studio(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Else the one of last time, or a free one.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the link.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Open the page for pictures, captions, training and choosing, until Ctrl-C."""
    from nsync_pipeline.studio.server import serve

    serve(find_workspace(workspace), port, open_browser=not no_browser)


@app.command()
def sync(
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Write ablations/dvc.yaml, too.")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Bring dvc.yaml in order with the styles, variants and training seeds of params.yaml."""
    place = find_workspace(workspace)
    from nsync_pipeline.graph.dvc import sync_dvc_file

    said = sync_dvc_file(place, ablation)
    print("\n".join(said) or "dvc.yaml says what params.yaml says: nothing to do")


@app.command()
def deliver(
    to: Annotated[
        str | None, typer.Option(metavar="URI", help="Another server than it was meant for.")
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Send MLflow what did not reach it while stages ran."""
    place = find_workspace(workspace)
    from nsync_pipeline.tracking.sender import deliver as send

    outcome = send(place, to)
    if outcome.problem:
        raise UserError(
            f"{len(outcome.left)} folders are not delivered to MLflow ({outcome.problem}). "
            "Nothing is lost: run `nsync deliver` when the server answers."
        )
    print(f"{outcome.sent} figures, files and settings delivered to MLflow")


@app.command()
def promote(
    style: StyleArgument,
    variant: VariantOption,
    training_seed: TrainingSeedOption = None,
    alias: Annotated[str, typer.Option(help="Which version it is to be from now on.")] = "champion",
    workspace: WorkspaceOption = None,
) -> None:
    """Register a trained variant's model in MLflow, and give it an alias."""
    place, params = settings_of(workspace)
    from nsync_pipeline.adaptation.saved_steps import chosen_weights
    from nsync_pipeline.tracking.sender import promote as register

    chosen = params.style(style).use_steps
    run = params.training_run(variant, training_seed)
    folder = place.model(style, variant, run.training_seed)
    weights = chosen_weights(folder, chosen.get(run.name), f"{style}, {run.name}")
    promoted = register(place, style, variant, run.training_seed, alias, weights)
    print(f"{promoted.name}: version {promoted.version} is {promoted.alias}")
    print(f'To draw with it: mlflow.pyfunc.load_model("{promoted.uri}")')


@app.command()
def choose(
    style: StyleArgument,
    variant: VariantOption,
    training_seed: TrainingSeedOption = None,
    step: StepOption = None,
    clear: Annotated[bool, typer.Option("--clear", help="Use its last weights again.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Say which of the weights that a training saved are drawn with, measured and exported."""
    place, params = settings_of(workspace)
    from nsync_pipeline.adaptation.saved_steps import saved_steps
    from nsync_pipeline.graph.settings import choose_step

    run = params.training_run(variant, training_seed)
    if clear == (step is not None):
        folder = place.model(style, variant, run.training_seed)
        there = ", ".join(map(str, saved_steps(folder))) or "none: it is not trained yet"
        raise UserError(f"say one of --step and --clear; {style}, {run.name} has steps: {there}")
    used = choose_step(place, params, style, run, step)
    print(f"{style}, {run.name}: the weights of step {used} are used from now on")
    print("Next: `dvc repro`, or the style's job in Dagster, draws and measures them")


@app.command()
def doctor(
    workspace: WorkspaceOption = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Also load the base and time a training's branches, all at once and in turn.",
        ),
    ] = False,
) -> None:
    """Say what is installed, found and missing."""
    from nsync_pipeline.cli.doctor import examine

    raise typer.Exit(examine(workspace, measure))
