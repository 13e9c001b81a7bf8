"""What DVC or the command line made while Dagster looked away."""

from dagster import DefaultSensorStatus, SensorEvaluationContext, SkipReason, sensor

from assets.sync import sync_from_lock


@sensor(minimum_interval_seconds=30, default_status=DefaultSensorStatus.RUNNING)
def dvc_lock(context: SensorEvaluationContext) -> SkipReason:
    """Report artefacts that `dvc repro`, `dvc pull` or `dvc checkout` brought, without a run."""
    told = sync_from_lock(context.instance)
    return SkipReason(f"reported {', '.join(told)}" if told else "Dagster knows all of dvc.lock")
