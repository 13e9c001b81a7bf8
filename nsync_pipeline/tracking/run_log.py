"""The log a stage writes its figures to.

``open_run_log`` decides which MLflow run a stage's figures belong to, spools them, and starts the
courier that delivers them from a process of its own: nothing here waits for a server, raises into
a stage, or imports mlflow (which takes seconds, and would hold the interpreter meanwhile).
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nsync_pipeline.tracking.courier import start_courier, wait_for_delivery
from nsync_pipeline.tracking.destination import configured_uri, is_remote
from nsync_pipeline.tracking.placement import (
    ABLATION,
    ARTEFACT,
    Placement,
    made_by,
    place,
    place_scores,
)
from nsync_pipeline.tracking.scores import scores_table, training_scores, variant_scores
from nsync_pipeline.tracking.settings import flat
from nsync_pipeline.tracking.spool import SpoolWriter
from nsync_pipeline.tracking.spooled_log import SpooledLog
from nsync_pipeline.tracking.unfinished import begin_or_continue
from nsync_pipeline.workspace import BASE, TrainingRun, Workspace

logger = logging.getLogger(__name__)

SWITCH = "NSYNC_TRACKING"
"""In the environment: ``off`` records nothing; ``later`` records, and leaves the sending to
``nsync deliver``, for machines that reach no server."""

NOTE = "mlflow.note.content"
"""The tag MLflow shows as a run's description."""

LAST_WAIT = 3.0
"""Seconds a run waits at its end for a remote server; the courier goes on after it."""


@dataclass(frozen=True)
class RunIdentity:
    """What a run is about."""

    stage: str
    style: str
    variant: str | None
    base: str
    """``name`` or ``name@revision`` of the base model."""
    inputs: str
    """A digest of everything the stage reads: an unfinished run of the same is continued."""
    training_seed: int | None = None
    """Of a training and what is drawn with it."""
    rule: str | None = None
    """The update rule of the variant."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """More to find it by, such as ``dagster.run_id``."""
    ablation: str | None = None
    """The ablation whose runs are compared with it."""

    @property
    def training(self) -> TrainingRun | None:
        """The training it is or draws with; None for the base and for what is once a style."""
        if self.variant is None or self.training_seed is None:
            return None
        return TrainingRun(self.variant, self.training_seed)


@contextmanager
def open_run_log(
    workspace: Workspace, run: RunIdentity, params: Mapping[str, object]
) -> Iterator[SpooledLog]:
    """The log of one stage's run; it keeps nothing where the stage has none, or tracking is off.

    ``params`` are the sections of ``params.yaml`` the stage reads, nested as there. The run ends
    as FINISHED; as KILLED where it was interrupted, as FAILED where it raised. Whatever fails in
    here, the stage goes on without a log.
    """
    uri = configured_uri()
    writer, log = _opened(workspace, run, params, uri)
    if writer is None:
        yield log
        return
    _send_meanwhile(workspace, uri)
    try:
        with writer:
            try:
                yield log
            except Exception as error:
                log.tags({"error": f"{type(error).__name__}: {error}"[:500]})
                log.status("FAILED")
                raise
            except BaseException:  # KeyboardInterrupt, SystemExit
                log.status("KILLED")
                raise
            _add_results(workspace, run, log)
            log.status("FINISHED")
        _add_scores(workspace, run, uri)
    finally:
        _send_meanwhile(workspace, uri)
        if is_remote(uri) and os.environ.get(SWITCH) != "later":
            wait_for_delivery(writer.path, LAST_WAIT)


def _send_meanwhile(workspace: Workspace, uri: str) -> None:
    if os.environ.get(SWITCH) != "later":
        start_courier(workspace.tracking, uri)


def _opened(
    workspace: Workspace, run: RunIdentity, params: Mapping[str, object], uri: str
) -> tuple[SpoolWriter | None, SpooledLog]:
    nothing = SpooledLog(None, Placement("", ""))
    try:
        placement = place(workspace, run.stage, run.style, run.training, run.base)
        if placement is None or os.environ.get(SWITCH) == "off":
            return None, nothing
        of = run.training.name if run.training else run.variant or "-"
        slot = f"{run.stage}.{_slot_of(workspace, run.style)}.{of}"
        spool = workspace.tracking / "spool"
        writer, seen = begin_or_continue(spool, slot, placement, _tags(run), uri)
        log = SpooledLog(writer, placement, seen)
        log.params(flat(params) | _training_params(run))
        return writer, log
    except Exception as error:
        logger.warning("MLflow: %s is not recorded: %s", run.stage, error)
        return None, nothing


def _slot_of(workspace: Workspace, style: str) -> str:
    """A style's part of a slot; an ablation's runs are not those of the same names beside it."""
    return f"{style}-ablation" if workspace.of_ablation else style


def _training_params(run: RunIdentity) -> dict[str, str | int]:
    """By them MLflow groups and filters the trainings of an experiment."""
    training = run.training
    if training is None:
        return {}
    return {"variant": training.variant, "training_seed": training.training_seed}


def _tags(run: RunIdentity) -> dict[str, str]:
    known = {
        "style": run.style, "variant": run.variant, "stage": run.stage, "rule": run.rule,
        "training_seed": None if run.training_seed is None else str(run.training_seed),
        "base": run.base, "nsync.inputs": run.inputs, "dvc.stage": os.environ.get("DVC_STAGE"),
        ABLATION: run.ablation,
        "mlflow.source.name": f"nsync run {run.stage}", "mlflow.source.type": "LOCAL",
        NOTE: _note(run),
    }  # fmt: skip
    return {k: v for k, v in known.items() if v} | dict(run.tags)


def _note(run: RunIdentity) -> str:
    variant = f", variant **{run.variant}**" if run.variant else ""
    if run.training_seed is not None:
        variant += f", training seed **{run.training_seed}**"
    rule = f" (update rule `{run.rule}`)" if run.rule else ""
    return (
        f"{run.stage.capitalize()} of style **{run.style}**{variant}{rule}, on base `{run.base}`."
    )


def _add_results(workspace: Workspace, run: RunIdentity, log: SpooledLog) -> None:
    """Name what the run made, so that later stages find the run by it; show what it says."""
    try:
        made = made_by(workspace, run.stage, run.style, run.training)
        if made is not None:
            log.tags({ARTEFACT: made})
        if run.stage == "evaluation":
            table = scores_table(variant_scores(_metrics_file(workspace, run.style)))
            log.tags({NOTE: f"{_note(run)}\n\n{table}"})
        if run.stage == "report":
            log.artifact(workspace.report(run.style) / "report.html")
    except (OSError, ValueError) as error:
        logger.warning("MLflow: the result of %s is not recorded: %s", run.stage, error)


def _add_scores(workspace: Workspace, run: RunIdentity, uri: str) -> None:
    """After an evaluation, show each training's scores on its own run."""
    if run.stage != "evaluation":
        return
    try:
        for training, values in training_scores(_metrics_file(workspace, run.style)).items():
            placement = place_scores(workspace, run.style, training, run.base)
            of = training.name if training else BASE
            slot = f"evaluation.{_slot_of(workspace, run.style)}.{of}"
            tags = {"style": run.style, "base": run.base}
            tags["variant"] = training.variant if training else BASE
            if training:
                tags["training_seed"] = str(training.training_seed)
            spool = workspace.tracking / "spool"
            writer, _ = begin_or_continue(spool, slot, placement, tags, uri)
            with writer:
                log = SpooledLog(writer, placement)
                log.metrics(values)
                if run.ablation:  # a run that was there before belongs to this ablation now, too
                    log.tags({ABLATION: run.ablation})
    except (OSError, ValueError) as error:
        logger.warning("MLflow: the scores of the trainings are not recorded: %s", error)


def _metrics_file(workspace: Workspace, style: str) -> Path:
    return workspace.evaluation(style) / "metrics.json"
