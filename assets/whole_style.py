"""A style whole: what is out of date is materialized in order, as runs of the Dagster instance."""

from collections.abc import Callable
from dataclasses import dataclass

from dagster import AssetKey, DagsterEvent, DagsterInstance, JobDefinition

from assets.abandoned import TAG, end_abandoned_runs
from assets.artefact import Artefact, all_artefacts
from assets.dvc import stages_out_of_date
from assets.partitions import PARAMS, partition_key
from assets.place import WORKSPACE
from assets.sync import sync_from_lock
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.workspace import TrainingRun

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""The run's events are in the instance; the terminal is for progress."""


class RunFailedError(Exception):
    """A run did not end well; the message is what the failed step said."""


@dataclass(frozen=True)
class Part:
    """One run: some assets of one partition."""

    job: str
    style: str
    training: TrainingRun | None
    assets: tuple[str, ...]

    def artefacts(self) -> list[Artefact]:
        return [Artefact(asset, self.style, self.training) for asset in self.assets]


def parts_of(style: str) -> list[Part]:
    """The runs that make a style whole, in order."""
    prepare = ("style_set", "captions", "negative_set", "base_samples")
    return [
        Part("prepare", style, None, prepare),
        *(Part("learn", style, run, ("lora", "samples")) for run in PARAMS.training_runs()),
        Part("assess", style, None, ("evaluation", "report")),
    ]


def materialize_style(
    job_named: Callable[[str], JobDefinition],
    instance: DagsterInstance,
    style: str,
    say: Callable[[str], None],
) -> list[Artefact]:
    """Materialize what is out of date of ``style``; gives what that was.

    Raises:
        RunFailedError: a run failed; what was made before it is kept.
        WorkspaceBusyError: another process is at this style.
    """
    lock = WORKSPACE.lock(f"whole_style-{style}")
    with sole_writer(lock, f"the style {style!r}"):
        end_abandoned_runs(instance, style)
        return _materialize_out_of_date(job_named, instance, style, say)


def _materialize_out_of_date(
    job_named: Callable[[str], JobDefinition],
    instance: DagsterInstance,
    style: str,
    say: Callable[[str], None],
) -> list[Artefact]:
    sync_from_lock(instance)
    pending = out_of_date(style)
    done = 0
    for part in parts_of(style):
        wanted = [artefact for artefact in part.artefacts() if artefact in pending]
        if not wanted:
            continue
        names = ", ".join(artefact.asset for artefact in wanted)
        of = f" of {part.training.name}" if part.training else ""
        say(f"[{done} of {len(pending)} done] {names}{of}")
        result = job_named(part.job).execute_in_process(
            instance=instance,
            partition_key=partition_key(part.style, part.training),
            asset_selection=[AssetKey(artefact.asset) for artefact in wanted],
            run_config=QUIET,
            raise_on_error=False,
            tags={TAG: style},
        )
        if not result.success:
            said = [_said(failure) for failure in result.get_step_failure_events()]
            raise RunFailedError("\n".join(said) or f"Dagster's run {result.run_id} failed")
        done += len(wanted)
    return [artefact for artefact in all_artefacts(style) if artefact in pending]


def out_of_date(style: str) -> set[Artefact]:
    """What DVC would make anew, and everything that is made from it."""
    artefacts = all_artefacts(style)
    changed = stages_out_of_date([artefact.dvc_stage for artefact in artefacts])
    pending: set[Artefact] = set()
    for artefact in artefacts:
        upstream = {other for other in pending if _feeds(other, artefact)}
        if artefact.dvc_stage in changed or upstream:
            pending.add(artefact)
    return pending


def _feeds(source: Artefact, target: Artefact) -> bool:
    same = source.training in (None, target.training) or target.training is None
    return source.stage.name in target.stage.needs and same


def _said(failure: DagsterEvent) -> str:
    """The innermost message: what DVC or the stage said, rather than that a step failed."""
    error = failure.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return f"{failure.step_key}: {error.message.strip() if error else 'it failed'}"
