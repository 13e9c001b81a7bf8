"""One run of one stage: the same whichever door started it."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import nsync_pipeline
from nsync_pipeline.errors import MissingArtifactError, UserError
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.graph.dagster_line import DagsterLine, dagster_line
from nsync_pipeline.graph.disk_full import disk_full_explained
from nsync_pipeline.graph.dvc import check_dvc_file
from nsync_pipeline.graph.inputs import Inputs, ReadParams, Tree, read_tree, tree_digest
from nsync_pipeline.graph.locks import accelerator_lease, sole_writer
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT, die_with_parent, run_workers
from nsync_pipeline.graph.progress import shown_progress
from nsync_pipeline.graph.records import write_made, write_record
from nsync_pipeline.graph.table import STAGES, Place, Stage, find_stage, places
from nsync_pipeline.params import Params, read_params
from nsync_pipeline.stage import Progress, StageContext, StageResult
from nsync_pipeline.tracking.run_log import RunIdentity, open_run_log
from nsync_pipeline.training.processes import this_rank
from nsync_pipeline.workspace import Workspace


def partial_folder(folder: Path) -> Path:
    """Where the artefact of ``folder`` is written; on the same file system."""
    return folder.with_name(f".{folder.name}.partial")


@dataclass(frozen=True)
class StagingWorkspace(Workspace):
    """A workspace in which one artefact's folder lies beside its place."""

    place: Path = field(kw_only=True)
    partial: Path = field(kw_only=True)

    def _staged(self, folder: Path) -> Path:
        return self.partial if folder == self.place else folder

    def style_set(self, style: str) -> Path:
        return self._staged(super().style_set(style))

    def captions(self, style: str) -> Path:
        return self._staged(super().captions(style))

    def negative_set(self, style: str) -> Path:
        return self._staged(super().negative_set(style))

    def model(self, style: str, variant: str, training_seed: int | str) -> Path:
        return self._staged(super().model(style, variant, training_seed))

    def samples(self, style: str, variant: str, training_seed: int | str | None = None) -> Path:
        return self._staged(super().samples(style, variant, training_seed))

    def evaluation(self, style: str) -> Path:
        return self._staged(super().evaluation(style))

    def report(self, style: str) -> Path:
        return self._staged(super().report(style))


def begin(workspace: Workspace, place: Path) -> StagingWorkspace:
    """An empty folder to write ``place`` in; what an interrupted run left there is gone."""
    partial = partial_folder(place)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return StagingWorkspace(workspace.root, workspace.of_ablation, place=place, partial=partial)


def publish(staging: StagingWorkspace) -> None:
    """Move what was written to its place; what was there before is gone.

    Raises:
        UserError: its place is not a folder.
    """
    if staging.place.is_symlink() or staging.place.is_file():
        raise UserError(f"{staging.place} is not a folder: move it away, then run this again.")
    old = staging.place.with_name(f".{staging.place.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if staging.place.exists():
        staging.place.rename(old)
    staging.partial.rename(staging.place)
    shutil.rmtree(old, ignore_errors=True)


PACKAGE = Path(nsync_pipeline.__file__).parent


def run_stage(
    workspace: Workspace,
    name: str,
    style: str,
    variant: str | None = None,
    training_seed: int | None = None,
) -> StageResult:
    """Run the stage called ``name`` and put its artefact in its place, whole or not at all.

    Of a variant it is the training with ``training_seed``; None: the first of ``training_seeds``.

    Raises:
        ParamsError: settings, stage, style, variant or training seed are not there or do not fit.
        MissingArtifactError: an artefact it reads is not there yet.
        WorkspaceBusyError: another process is writing its artefact.
        InputsChangedError: its inputs changed while it ran; nothing is put in place.
        UserError: what the stage itself raises, and a full disk.
    """
    under_dvc = "DVC_STAGE" in os.environ
    if under_dvc or ENDS_WITH_PARENT in os.environ:
        die_with_parent()
    stage = find_stage(name, variant, training_seed)
    params = read_params(workspace.params_file)
    params.style(style)
    place = Place(workspace, style)
    if variant is not None:
        params.variant(variant)
        place = Place(workspace, style, variant, params.training_seed(training_seed))
    if under_dvc:
        check_dvc_file(workspace, params)
    if not this_rank().is_first:  # of several that train together the first does all the rest
        return stage.run(_context(workspace, params, place))
    with dagster_line() as line:
        return make_artefact(stage, place, read_params, line)


def make_artefact(
    stage: Stage,
    place: Place,
    read: ReadParams,
    line: DagsterLine | None,
    ablation: str | None = None,
) -> StageResult:
    """Run ``stage`` and put its artefact in ``place``; raises as ``run_stage`` does.

    Args:
        stage: what is run.
        place: which of its artefacts.
        read: how params.yaml is read.
        line: to the Dagster run this process works for.
        ablation: the name of the group of runs that are compared with this one.
    """
    workspace = place.workspace
    params = read(workspace.params_file)
    title = " · ".join((stage.name, *place.parts))
    with ExitStack() as open_until_end:
        open_until_end.enter_context(disk_full_explained(workspace.root))
        lock = workspace.lock(stage.slot(place))
        open_until_end.enter_context(sole_writer(lock, stage.folder(place)))
        inputs = read_inputs(stage, place, params, read)
        say = line.say if line else lambda text: print(text, flush=True)
        if stage.uses_accelerator:
            open_until_end.enter_context(_lease(params.base_model, say))
        tell = open_until_end.enter_context(shown_progress(title, line.say if line else None))
        return _run(stage, place, params, inputs, tell, line, ablation)


def run_stage_in_processes(
    workspace: Workspace,
    name: str,
    style: str,
    variant: str | None,
    training_seed: int | None,
    count: int,
) -> None:
    """Run a stage in ``count`` processes on this machine; the first does what ``run_stage`` does.

    Raises:
        WorkerError: one of them failed, and all have ended.
    """
    if "DVC_STAGE" in os.environ:
        die_with_parent()
    command = [sys.executable, "-m", "nsync_pipeline.cli", "run", name, "--style", style]
    command += ["--workspace", str(workspace.root)]
    command += [] if variant is None else ["--variant", variant]
    command += [] if training_seed is None else ["--training-seed", str(training_seed)]
    run_workers(command, count)


def _run(
    stage: Stage,
    place: Place,
    params: Params,
    inputs: Inputs,
    tell: Progress,
    line: DagsterLine | None,
    ablation: str | None,
) -> StageResult:
    workspace = place.workspace
    staging = begin(workspace, stage.folder(place))
    base = params.base_model
    identity = RunIdentity(
        stage=stage.module or stage.name,
        style=place.style,
        variant=place.variant or stage.fixed_variant,
        training_seed=None if place.training_seed is None else int(place.training_seed),
        base=base.name if base.revision is None else f"{base.name}@{base.revision}",
        inputs=inputs.digest(),
        rule=params.variants[place.variant].update_rule if place.variant else None,
        tags={"dagster.run_id": line.run_id} if line else {},
        ablation=ablation,
    )
    with open_run_log(workspace, identity, _logged(inputs.settings, params, place.variant)) as log:
        context = _context(staging, params, place)
        variant = place.variant or stage.fixed_variant
        result = stage.run(replace(context, variant=variant, log=log, progress=tell))
        inputs.check_unchanged()
        publish(staging)
        made = tree_digest(read_tree(staging.place))
        write_record(workspace, made, result)
        write_made(workspace.made(place.style), stage.slot(place), identity.inputs, made)
        log.results(result.figures, [preview.jpeg for preview in result.previews])
    return result


def read_inputs(
    stage: Stage,
    place: Place,
    params: Params,
    read: ReadParams = read_params,
    known: MutableMapping[Path, Tree] | None = None,
) -> Inputs:
    """What the stage reads, code included, as it is now; ``read`` and ``known`` as ``Inputs`` has.

    Raises:
        MissingArtifactError: an artefact it reads is not there.
    """
    artefacts = stage.inputs(place, params.training_runs())
    choices = place.workspace.choices(place.style)
    for path in artefacts:
        if not path.exists() and path != choices:
            raise MissingArtifactError(
                f"{path} is not there, and {stage.name} reads it: run "
                f"{_maker(path, place, params)} first (`dvc repro` runs all that is missing)."
            )
    code = [PACKAGE / part for part in stage.code if (PACKAGE / part).exists()]
    keys = stage.keys(place.style, place.variant)
    paths = (*artefacts, *code)
    return Inputs.read(place.workspace.params_file, params, keys, paths, read, known)


def _context(workspace: Workspace, params: Params, place: Place) -> StageContext:
    context = StageContext(workspace, params, place.style, place.variant)
    if place.training_seed is None:
        return context
    return replace(context, training_seed=int(place.training_seed))


def _maker(path: Path, place: Place, params: Params) -> str:
    """Which stage makes the artefact at ``path``."""
    for stage in STAGES.values():
        if path in map(stage.folder, places(stage, place.workspace, place.style, params)):
            return stage.name
    return "`nsync add-style`"


def _logged(
    settings: Mapping[str, object], params: Params, variant: str | None
) -> dict[str, object]:
    """The settings as they apply: those of a variant under the same names as any other's."""
    if variant is None:
        return dict(settings)
    shared = {k: v for k, v in settings.items() if not k.startswith("variants.")}
    if "training" in shared:
        shared["training"] = params.variant(variant).model_dump(mode="json")
    return shared


def _lease(base: BaseModelConfig, say: Callable[[str], None]) -> AbstractContextManager[None]:
    """The lease of the accelerator, where the base model will be put on one."""
    if base.device not in ("auto", "cuda"):
        return nullcontext()
    import torch  # only here: most of what this package does needs no torch

    if not torch.cuda.is_available():
        return nullcontext()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    return accelerator_lease(f"cuda-{visible}", say)
