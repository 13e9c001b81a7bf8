"""One run of one stage: the same whichever door started it."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import nsync_pipeline
from nsync_pipeline.errors import InputsChangedError, MissingArtifactError, ParamsError, UserError
from nsync_pipeline.files import (
    disk_full_explained,
    forget_replaced,
    mend,
    put_in_place,
    replaced,
    sweep,
)
from nsync_pipeline.graph.artefacts import WHOLE, AblationPart, Artefact, Graph, difference
from nsync_pipeline.graph.dvc import check_dvc_file
from nsync_pipeline.graph.locks import leased_devices, sole_writer
from nsync_pipeline.graph.made import Made, describe, read_made, require_whole
from nsync_pipeline.graph.places import Places, on_cluster, on_threads, places_of
from nsync_pipeline.graph.processes import UNDER_DVC, die_with_parent, ends_with_parent, run_workers
from nsync_pipeline.graph.progress import (
    DagsterLine,
    dagster_line,
    progress_file,
    said_in,
    shown_line,
    shown_progress,
)
from nsync_pipeline.ranks import this_rank
from nsync_pipeline.settings import StageSettings
from nsync_pipeline.stage import Progress, StageContext
from nsync_pipeline.tracking.sender import notify, recorded
from nsync_pipeline.workspace import Workspace

KEPT = 3  # earlier artefacts in one place: a setting that is changed back costs nothing


ENGINE: tuple[str, ...] = (sys.executable, "-m", "nsync_pipeline.cli")

say_here = partial(print, flush=True)


@dataclass(frozen=True)
class Asked:
    """What is to be made."""

    stage: str
    style: str
    variant: str | None = None
    training_seed: int | None = None  # None: the first of the variant's
    of_ablation: bool = False
    force: bool = False  # make it even where it is fresh
    recipe: int | None = None  # that dvc.yaml expects; None: any
    processes: int = 1  # that share the work of a training
    part: AblationPart = WHOLE

    def artefact(self, graph: Graph) -> Artefact:
        """Raises ``ParamsError`` where there is none such."""
        return graph.artefact(
            self.stage, self.style, self.variant, self.training_seed, self.of_ablation
        )

    def command(self, workspace: Workspace) -> list[str]:
        """That makes it in a process of its own."""
        options: dict[str, object] = {
            "--workspace": workspace.root, "--style": self.style, "--variant": self.variant,
            "--training-seed": self.training_seed,
            "--only": self.part.only and ",".join(self.part.only),
            "--training-seeds": self.part.training_seeds
            and ",".join(map(str, self.part.training_seeds)),
        }  # fmt: skip
        command = [*ENGINE, "run", self.stage]
        for option, value in options.items():
            command += [] if value is None else [option, str(value)]
        command += ["--ablation"] if self.of_ablation else []
        return command + (["--force"] if self.force else [])


@dataclass(frozen=True)
class Written:
    """What was written beside an artefact's place."""

    made: Made
    leftovers: tuple[Path, ...] = ()  # of no use once it is there


@dataclass(frozen=True)
class JobOptions:
    """How a job on a cluster is asked for."""

    say: Callable[[str], None]  # is told what it prints
    anew: bool  # also where the same was made


@dataclass(frozen=True)
class Outcome:
    """What there is now."""

    artefact: Artefact
    made: Made
    is_new: bool  # it was made by this run; otherwise it was fresh


def run_stage(workspace: Workspace, asked: Asked) -> Outcome | None:
    """Bring one artefact up to date, and put it in its place whole or not at all.

    None in the processes of a training that only help the first one.

    Raises:
        ParamsError: settings, stage, style, variant or training seed are not there or do not fit.
        MissingArtifactError: an artefact it reads is not there, or is damaged.
        WorkspaceBusyError: another process is writing its artefact.
        InputsChangedError: its inputs changed while it ran; nothing is put in place.
        UserError: what the stage itself raises, a full disk, or another engine's workspace.
    """
    if ends_with_parent():
        die_with_parent()
    require_own_engine(workspace)
    graph = Graph.read(workspace, asked.part)
    sweep(workspace.state)
    artefact = asked.artefact(graph)
    if asked.recipe not in (None, artefact.stage.recipe):
        raise ParamsError(
            f"dvc.yaml expects recipe {asked.recipe} of {asked.stage}, and this version of the "
            f"engine makes it by recipe {artefact.stage.recipe}: `nsync sync` brings it in order."
        )
    if UNDER_DVC in os.environ:
        check_dvc_file(graph)
    if not this_rank().is_first:  # of several that train together the first does all the rest
        with tempfile.TemporaryDirectory(prefix="nsync-") as folder:
            artefact.stage.run(_context(graph, artefact, Path(folder)))
        return None
    with dagster_line() as line:
        return bring_up_to_date(graph, artefact, line, force=asked.force)


def run_in_processes(workspace: Workspace, asked: Asked) -> None:
    """Run a training in several processes on this machine; the first does what ``run_stage`` does.

    Raises:
        WorkerError: one of them failed, and all have ended.
        UserError: there are fewer devices than processes.
    """
    if ends_with_parent():
        die_with_parent()
    graph = Graph.read(workspace, asked.part)
    places = _places(graph, asked.artefact(graph))
    if places.cluster:
        raise UserError(
            f"--processes {asked.processes} is of this machine, and stages run on Ray "
            "(executor.kind): --on local"
        )
    if places.devices and asked.processes > places.count:
        raise UserError(
            f"--processes {asked.processes}: each needs a device of its own, and there are places "
            f"for {places.says}"
        )
    if not places.whole_cards:
        raise UserError(
            f"--processes {asked.processes} needs whole cards, and CUDA_VISIBLE_DEVICES names "
            f"parts of one: {', '.join(places.devices)}"
        )
    count = asked.processes * places.each
    with leased_devices(places.devices, count, say_here, places.kind):
        run_workers(asked.command(workspace), asked.processes, places.threads)


def bring_up_to_date(
    graph: Graph, artefact: Artefact, line: DagsterLine | None = None, *, force: bool = False
) -> Outcome:
    """Make ``artefact`` unless it is fresh, here or on a cluster; raises as ``run_stage`` does."""
    workspace = graph.workspace
    place = workspace.root / artefact.path
    say = line.say if line else say_here
    with ExitStack() as open_until_end:
        open_until_end.enter_context(disk_full_explained(workspace.root))
        open_until_end.enter_context(sole_writer(workspace.lock(artefact.slot), place))
        _clear(place)
        graph.refresh()
        plan = graph.plan(artefact)
        made = graph.made(artefact)
        if made is not None and not force and _is_whole(made, plan, place, graph, say):
            return Outcome(artefact, made, is_new=False)
        graph.require_of_one_piece(artefact, plan)
        _require_place(place)
        kept = _kept_folder(graph, artefact)
        earlier = None if kept is None or force else read_made(kept / plan.digest())
        if kept and earlier and _is_whole(earlier, plan, kept / plan.digest(), graph, say):
            written = _partial_folder(place)
            shutil.move(kept / plan.digest(), written)
            _publish(written, place, kept)
            graph.refresh()
            notify(workspace)
            say(f"{artefact.title}: brought back as it was made before")
            return Outcome(artefact, earlier, is_new=False)
        for need in graph.needs(artefact):
            found = graph.made(need)
            assert found is not None, "the plan has its digest"
            require_whole(workspace.root / need.path, found, graph.hashes)
        file = progress_file(workspace, artefact.slot)
        places = _places(graph, artefact)
        open_until_end.callback(file.unlink, missing_ok=True)
        say_waiting = said_in(file, artefact.title, say)
        if places.cluster:
            job = JobOptions(partial(shown_line, file, say), anew=force)
            make = partial(_made_on_ray, graph, artefact, plan, job=job)
        else:
            # Several processes that something else started use the first devices, one after the
            # other.
            count = this_rank().here * places.each
            devices = places.devices if count == places.each else places.devices[:count]
            lease = leased_devices(devices, count, say_waiting, places.kind)
            open_until_end.enter_context(lease)
            open_until_end.enter_context(on_threads(places.threads))
            shown = shown_progress(artefact.title, line.say if line else None, file)
            tell = open_until_end.enter_context(shown)
            make = partial(_made_here, graph, artefact, plan, progress=tell)
        return Outcome(artefact, _put_in_place(graph, artefact, plan, make, line), is_new=True)


def up_to_date(graph: Graph, artefact: Artefact, say: Callable[[str], None]) -> Made | None:
    """What the artefact says of itself where nothing needs to be done for it; else None."""
    try:
        plan = graph.plan(artefact)
    except MissingArtifactError:
        return None
    made, place = graph.made(artefact), graph.workspace.root / artefact.path
    return made if made is not None and _is_whole(made, plan, place, graph, say) else None


def _put_in_place(
    graph: Graph,
    artefact: Artefact,
    plan: Made,
    make: Callable[[Path], Written],
    line: DagsterLine | None,
) -> Made:
    """Have it made beside the artefact's place, then move it there."""
    workspace = replace(graph.workspace, of_ablation=artefact.of_ablation)
    place = workspace.root / artefact.path
    written = _partial_folder(place)
    written.mkdir()
    tags = {"dagster.run_id": line.run_id} if line else {}
    try:
        with recorded(workspace, asdict(plan), tags):
            new = make(written)
            _require_unchanged(graph, artefact, plan)
            _publish(written, place, _kept_folder(graph, artefact))
            graph.refresh()
            for leftover in new.leftovers:
                shutil.rmtree(leftover, ignore_errors=True)
    finally:
        shutil.rmtree(written, ignore_errors=True)
    return new.made


def _made_here(
    graph: Graph, artefact: Artefact, plan: Made, written: Path, progress: Progress
) -> Written:
    context = _context(graph, artefact, written)
    told = partial(notify, context.workspace)
    result = artefact.stage.run(replace(context, progress=progress, checkpointed=told))
    device = device_kind(graph, artefact) if result.by_model else ""
    return Written(describe(written, replace(plan, device=device), result), result.leftovers)


def _made_on_ray(
    graph: Graph, artefact: Artefact, plan: Made, written: Path, job: JobOptions
) -> Written:
    from nsync_pipeline.graph.remote.home import made_on_ray  # only who asks for a job needs it

    return Written(made_on_ray(graph, artefact, plan, written, job))


def _is_whole(
    made: Made, plan: Made, place: Path, graph: Graph, say: Callable[[str], None]
) -> bool:
    try:
        if made.made_alike(plan):
            require_whole(place, made, graph.hashes)
            return True
    except UserError as error:
        say(f"it is made again: {error}")
    return False


def _require_unchanged(graph: Graph, artefact: Artefact, plan: Made) -> None:
    """Compare what the stage read with what is there now.

    DVC takes the digests of deps and settings *after* the command: without this, a setting edited
    during a training would be recorded as the one the model was trained with.
    """
    try:
        now = Graph.read(graph.workspace, graph.part)
        again = now.plan(artefact)
    except (ParamsError, UserError) as error:
        changed = str(error)
    else:
        if again.made_alike(plan):
            return
        changed = difference(plan, again)
    raise InputsChangedError(
        f"While this stage ran, its inputs changed: {changed}. Its result would not be what these "
        "inputs give, so it is not kept: run it again."
    )


def _context(graph: Graph, artefact: Artefact, folder: Path) -> StageContext[StageSettings]:
    workspace = replace(graph.workspace, of_ablation=artefact.of_ablation)
    return StageContext(
        workspace, folder, graph.settings(artefact), artefact.style, artefact.variant,
        artefact.training_seed,
    )  # fmt: skip


def _partial_folder(place: Path) -> Path:
    """Where what comes to ``place`` is written: beside it, and not there."""
    folder = place.with_name(f".{place.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def _require_place(place: Path) -> None:
    """Raise ``UserError`` where an artefact's place is taken by what is not a folder."""
    if place.is_symlink() or place.is_file():
        raise UserError(f"{place} is not a folder: move it away, then run this again.")


def _kept_folder(graph: Graph, artefact: Artefact) -> Path | None:
    """Where earlier artefacts in the same place are kept; None for what is soon made again."""
    if not artefact.stage.on_device:
        return None
    return graph.workspace.state / "earlier" / artefact.slot


def _publish(written: Path, place: Path, kept: Path | None) -> None:
    """Move what was written to its place; what was there before goes to ``kept``, or is gone."""
    _require_place(place)
    put_in_place(written, place)
    before, now = read_made(replaced(place)), read_made(place)
    # Where they are alike, the old one was damaged, or is made again on demand.
    if kept and before and now and before.digest() != now.digest():
        _keep(replaced(place), kept / before.digest())
    forget_replaced(place)


def _clear(place: Path) -> None:
    """Remove what a killed process left beside ``place``; who calls it writes there alone."""
    mend(place)
    forget_replaced(place)
    if place.parent.is_dir():
        _partial_folder(place)


def _keep(old: Path, kept: Path) -> None:
    """Move ``old`` among the last ``KEPT`` of its place."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
    try:
        old.rename(kept)
    except OSError:  # on another disk: a copy would take longer than it is worth
        return
    by_age = sorted(kept.parent.iterdir(), key=lambda folder: folder.stat().st_ctime)
    for folder in by_age[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def device_kind(graph: Graph, artefact: Artefact) -> str:
    """What computes the artefact here: two kinds may give two results. Empty: no such device."""
    if not artefact.stage.on_device:
        return ""
    import torch  # only here: most of what this package does needs no torch

    from nsync_pipeline.families.placement import choose_device, multiplies_bfloat16

    device = choose_device(graph.params.base_model.device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "cpu with bfloat16" if multiplies_bfloat16(device) else device.type


def _places(graph: Graph, artefact: Artefact) -> Places:
    """Where the stage runs, and the devices that it may use."""
    needs_one = artefact.stage.on_device or on_cluster(graph.params)
    return places_of(graph.params) if needs_one else Places()


def require_own_engine(workspace: Workspace) -> None:
    """A checkout is worked on by its own engine: what is recorded is what ran.

    Raises:
        UserError: the workspace holds an engine, and another one is running.
    """
    own = workspace.root / "nsync_pipeline" / "__init__.py"
    running = Path(nsync_pipeline.__file__)
    if own.is_file() and not own.samefile(running):
        raise UserError(
            f"{workspace.root} holds an engine of its own, and the one that runs is "
            f"{running.parent}: activate this checkout's environment (`source .venv/bin/activate` "
            "after `make setup`)"
        )
