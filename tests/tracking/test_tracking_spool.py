"""The spool: what is appended survives the writer's death and is read back whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nsync_pipeline.tracking.batches import batches, singly
from nsync_pipeline.tracking.placement import Placement
from nsync_pipeline.tracking.spool import (
    RunHeader,
    Sent,
    SpoolWriter,
    is_alive,
    read_events,
    read_header,
    read_sent,
    spool_files,
    undelivered,
    write_sent,
)
from nsync_pipeline.tracking.unfinished import begin_or_continue, end_abandoned, last_status

HEADER = RunHeader("", "nsync/ink", "nsync · ink", {"nsync.run": "a"}, {"style": "ink"}, 1, True)
OWN_RUN = Placement("nsync/ink", "nsync · ink")
SLOT = "training.ink.nsync"


def spool_path(folder: Path, created: int = 1) -> Path:
    return folder / f"{created:020d}.{SLOT}.a.jsonl"


def test_events_are_read_back_in_order_after_the_header(tmp_path: Path) -> None:
    path = spool_path(tmp_path)
    with SpoolWriter(path, HEADER) as writer:
        writer.append({"kind": "params", "values": {"seed": "0"}})
        writer.append({"kind": "metrics", "values": {"loss": 0.5}, "step": 1})

    events = list(read_events(path))

    assert read_header(path) == HEADER
    assert [event["kind"] for _, event in events] == ["params", "metrics"]
    assert events[-1][0] == path.stat().st_size


def test_a_line_cut_off_by_a_full_disk_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = spool_path(tmp_path)
    with SpoolWriter(path, HEADER) as writer:
        writer.append({"kind": "tags", "values": {"a": "1"}})
    with path.open("ab") as file:
        file.write(b'{"kind":"metrics","val')
    with SpoolWriter(path, header=None) as writer:
        writer.append({"kind": "tags", "values": {"b": "2"}})

    assert [event["values"] for _, event in read_events(path)] == [{"a": "1"}, {"b": "2"}]


def test_a_line_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    path = spool_path(tmp_path)
    SpoolWriter(path, HEADER).close()
    with path.open("ab") as file:
        file.write(b'{"kind":"tags"')

    assert list(read_events(path)) == []


def test_what_is_sent_no_longer_counts_as_undelivered(tmp_path: Path) -> None:
    path = spool_path(tmp_path)
    with SpoolWriter(path, HEADER) as writer:
        for step in range(3):
            writer.append({"kind": "metrics", "values": {"loss": 1.0}, "step": step})
    second = list(read_events(path))[1][0]

    assert undelivered(tmp_path) == 3
    write_sent(path, Sent(second, "", "run"))
    assert undelivered(tmp_path) == 1


def test_a_spoiled_record_of_what_was_sent_means_sending_again(tmp_path: Path) -> None:
    path = spool_path(tmp_path)
    path.with_suffix(".sent").write_text('{"offset": 9')

    assert read_sent(path) == Sent()


def test_files_come_oldest_first_and_by_slot(tmp_path: Path) -> None:
    for created in (20, 3):
        SpoolWriter(spool_path(tmp_path, created), HEADER).close()
    (tmp_path / f"{7:020d}.evaluation.ink.-.b.jsonl").touch()

    assert [path.name[17:20] for path in spool_files(tmp_path)] == ["003", "007", "020"]
    assert len(spool_files(tmp_path, SLOT)) == 2


WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
from nsync_pipeline.tracking.placement import Placement
from nsync_pipeline.tracking.unfinished import begin_or_continue
writer, _ = begin_or_continue(
    Path(sys.argv[1]), "training.ink.nsync", Placement("nsync/ink", "nsync · ink"),
    {"nsync.inputs": "same"}, "",
)
writer.append({"kind": "metrics", "at": 1, "values": {"loss": 0.5}, "step": 1})
print(writer.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def killed_run(tmp_path: Path) -> Path:
    """The file of a run whose process was killed by SIGKILL after one step."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    path = Path(process.stdout.readline().strip())
    assert is_alive(path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return path


def test_a_killed_run_is_seen_dead_and_is_continued_with_the_same_inputs(killed_run: Path) -> None:
    assert not is_alive(killed_run)

    writer, seen = begin_or_continue(killed_run.parent, SLOT, OWN_RUN, {"nsync.inputs": "same"}, "")
    writer.close()

    assert writer.path == killed_run
    assert seen == {("loss", 1): 0.5}
    assert last_status(killed_run) == "RUNNING"


@pytest.mark.parametrize(("inputs", "uri"), [("other", ""), ("same", "http://elsewhere")])
def test_a_killed_run_is_not_continued_with_other_inputs_or_elsewhere(
    killed_run: Path, inputs: str, uri: str
) -> None:
    writer, seen = begin_or_continue(
        killed_run.parent, SLOT, OWN_RUN, {"nsync.inputs": inputs}, uri
    )
    writer.close()

    assert writer.path != killed_run
    assert seen == {}


def test_a_killed_run_is_told_to_be_killed_once(killed_run: Path) -> None:
    end_abandoned(killed_run)
    end_abandoned(killed_run)

    statuses = [e["status"] for _, e in read_events(killed_run) if e["kind"] == "status"]
    assert statuses == ["KILLED"]


def test_a_finished_run_is_not_continued(tmp_path: Path) -> None:
    tags = {"nsync.inputs": "same"}
    first, _ = begin_or_continue(tmp_path, SLOT, OWN_RUN, tags, "")
    with first:
        first.append({"kind": "status", "at": 1, "status": "FINISHED"})
    second, _ = begin_or_continue(tmp_path, SLOT, OWN_RUN, tags, "")
    second.close()

    assert second.path != first.path


def test_one_request_holds_at_most_what_mlflow_takes() -> None:
    # 90 metrics an event: 11 events are 990, a twelfth would be 1080, over the limit of 1000.
    figures = {f"m{i}": 0.0 for i in range(90)}
    events = [(n, {"kind": "metrics", "values": figures}) for n in range(1, 13)]

    assert [(end, len(batch)) for end, batch in batches(events)] == [(11, 11), (12, 1)]


def test_a_status_is_a_request_of_its_own_in_its_place() -> None:
    kinds = ["params", "metrics", "status", "metrics"]
    events = [(n, {"kind": kind, "values": {"a": 1}}) for n, kind in enumerate(kinds, start=1)]

    grouped = [(end, [event["kind"] for event in batch]) for end, batch in batches(events)]

    assert grouped == [(2, ["params", "metrics"]), (3, ["status"]), (4, ["metrics"])]


def test_a_refused_request_is_taken_apart_into_single_values() -> None:
    batch = [
        {"kind": "params", "values": {"a": "1", "b": "2"}},
        {"kind": "metrics", "values": {"c": 3.0}, "step": 4},
    ]

    assert [event["values"] for event in singly(batch)] == [{"a": "1"}, {"b": "2"}, {"c": 3.0}]
