"""Events in the portions one request to MLflow may hold."""

from collections.abc import Iterable, Iterator, Sequence

from nsync_pipeline.tracking.spool import Event

MOST = {"metrics": 1000, "params": 100, "tags": 100}
"""MLflow's limits of one ``log_batch``; all together at most 1000."""


def batches(events: Iterable[tuple[int, Event]]) -> Iterator[tuple[int, list[Event]]]:
    """Group what one request can take, in order; each with the byte after its last event.

    A status, a file or a dataset is a request of its own, and so in a batch of its own.
    """
    batch: list[Event] = []
    last = 0
    for end, event in events:
        if batch and not (event["kind"] in MOST and _fits([*batch, event])):
            yield last, batch
            batch = []
        batch.append(event)
        last = end
        if event["kind"] not in MOST:
            yield last, batch
            batch = []
    if batch:
        yield last, batch


def singly(batch: Sequence[Event]) -> list[Event]:
    """The batch's values as events of one value each, so that one refused leaves the others."""
    return [
        part
        for event in batch
        for part in (
            [{**event, "values": {name: value}} for name, value in event["values"].items()]
            if "values" in event
            else [event]
        )
    ]


def _fits(batch: Sequence[Event]) -> bool:
    sizes = dict.fromkeys(MOST, 0)
    for event in batch:
        sizes[event["kind"]] += len(event["values"])
    return sum(sizes.values()) <= MOST["metrics"] and all(sizes[k] <= MOST[k] for k in MOST)
