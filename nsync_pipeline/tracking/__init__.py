"""What MLflow shows: a projection of the artefacts, told by a process beside the stages.

Nothing is kept for MLflow but what the workspace holds anyway: ``made.json`` and the files beside
it, ``history.csv`` and its like of a training under way. So a server that was down is told later,
and a new one is told everything.

The runner of a stage (no mlflow, no server, no waiting)::

    with live.recorded(workspace, plan, tags):  # until the artefact is in its place
        ...                                     # checkpointed=lambda: live.notify(workspace)

The command line, the doctor and the pages::

    sender.deliver(workspace, to=None)          # all that the server lacks; gives an Outcome
    sender.waiting(workspace)                   # folders the server is not known to have
    destination.configured_uri(), is_remote(uri), masked(text), resolved_uri(uri, tracking)
    projection.experiment_of(workspace, style), ABLATION, ablation_group(made), flat(settings)

``projection`` says what MLflow gets of each folder, ``server`` tells a server what it lacks of
that, ``sender`` is the process that does so (``python -m nsync_pipeline.tracking.sender ROOT``).
"""
