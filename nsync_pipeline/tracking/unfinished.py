"""Begin a run's file, or go on with the one an interrupted attempt left."""

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from nsync_pipeline.tracking.placement import ATTEMPT, Placement
from nsync_pipeline.tracking.spool import (
    RunHeader,
    SpoolWriter,
    is_alive,
    read_events,
    read_header,
    spool_files,
    writer_lock,
)

INPUTS = "nsync.inputs"
Seen = dict[tuple[str, int], float]
"""The figures logged so far, by name and step."""


def begin_or_continue(
    spool: Path, slot: str, placement: Placement, tags: Mapping[str, str], uri: str
) -> tuple[SpoolWriter, Seen]:
    """The writer for ``slot`` (stage.style.variant), and what it has logged already.

    The last file of the slot goes on where its run is this stage's own, was cut off or failed,
    read the same inputs, and was meant for the same server: what follows continues it.
    """
    last = next(reversed(spool_files(spool, slot)), None)
    if placement.owner and last is not None and _goes_on(last, tags, uri):
        seen = _seen(last)
        writer = SpoolWriter(last, header=None)
        now = time.time_ns() // 1_000_000
        writer.append({"kind": "tags", "at": now, "values": dict(tags)})
        writer.append({"kind": "status", "at": now, "status": "RUNNING"})
        return writer, seen
    created = time.time_ns()
    key = uuid.uuid4().hex
    header = RunHeader(
        uri=uri,
        experiment=placement.experiment,
        name=placement.name,
        match=placement.match or {ATTEMPT: key},
        tags=tags,
        started=created // 1_000_000,
        owner=placement.owner,
    )
    return SpoolWriter(spool / f"{created:020d}.{slot}.{key}.jsonl", header), {}


def last_status(path: Path) -> str:
    """The state the file's run is in, as MLflow names it."""
    status = "RUNNING"
    for _, event in read_events(path):
        if event["kind"] == "status":
            status = event["status"]
    return status


def end_abandoned(path: Path) -> None:
    """Say of a run whose process was killed that it was: nobody else does."""
    with writer_lock(path).acquire(blocking=False):
        header = read_header(path)
        if header is not None and header.owner and last_status(path) == "RUNNING":
            at = path.stat().st_mtime_ns // 1_000_000
            event = {"kind": "status", "at": at, "status": "KILLED"}
            with path.open("ab") as file:
                file.write(b"\n" + json.dumps(event).encode() + b"\n")


def _goes_on(path: Path, tags: Mapping[str, str], uri: str) -> bool:
    header = read_header(path)
    return (
        header is not None
        and header.uri == uri
        and header.tags.get(INPUTS) == tags.get(INPUTS)
        and not is_alive(path)
        and last_status(path) != "FINISHED"
    )


def _seen(path: Path) -> Seen:
    return {
        (name, event["step"]): value
        for _, event in read_events(path)
        if event["kind"] == "metrics"
        for name, value in event["values"].items()
    }
