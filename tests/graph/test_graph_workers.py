"""Processes of one command: they meet, end together, and the one that failed is named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nsync_pipeline.errors import WorkerError
from nsync_pipeline.graph import processes as workers
from nsync_pipeline.graph.processes import run_workers
from nsync_pipeline.ranks import Rank, this_rank


def command(text: str) -> list[str]:
    """A process that knows its rank as ``rank``."""
    return [sys.executable, "-c", f"import os, sys, time; rank = int(os.environ['RANK'])\n{text}"]


def test_each_knows_its_place_and_where_to_meet(tmp_path: Path) -> None:
    names = "('WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')"
    write = f"open(f'{tmp_path}/{{rank}}', 'w').write(' '.join(os.environ[n] for n in {names}))"
    run_workers(command(write), 3)
    said = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [(size, local) for size, local, *_ in said] == [("3", "0"), ("3", "1"), ("3", "2")]
    assert len({(address, port) for *_, address, port in said}) == 1


def test_only_the_first_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    run_workers(command("print(f'I am {rank}', flush=True); print(rank, file=sys.stderr)"), 2)
    heard = capfd.readouterr()
    assert (heard.out, heard.err) == ("I am 0\n", "0\n")


def test_the_last_words_of_one_that_failed_are_told() -> None:
    failing = (
        "print('much\\nnsync: no picture 7', file=sys.stderr); sys.exit(2 if rank == 1 else 0)"
    )
    with pytest.raises(
        WorkerError, match="process 1 of 2 ended with code 2: no picture 7"
    ) as caught:
        run_workers(command(failing), 2)
    assert caught.value.exit_code == 2


def test_the_first_ones_exit_code_is_kept() -> None:
    """A code of its own says that inputs changed meanwhile."""
    with pytest.raises(WorkerError, match="process 0 of 2 ended with code 75") as caught:
        run_workers(command("sys.exit(75 if rank == 0 else 76)"), 2)
    assert caught.value.exit_code == 75


def test_one_that_only_lost_another_is_not_blamed() -> None:
    """The first notices within a tenth of a second that the other was killed."""
    text = "os.kill(os.getpid(), 9) if rank == 1 else (time.sleep(0.1), sys.exit(76))"
    with pytest.raises(WorkerError, match=r"process 1 of 2 was killed \(SIGKILL\)"):
        run_workers(command(text), 2)


def test_those_that_do_not_notice_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "GRACE", 0.5)
    text = f"open(f'{tmp_path}/{{rank}}', 'w').write(str(os.getpid()))\n"
    text += "time.sleep(600 if rank == 0 else 0.3); sys.exit(3)"
    started = time.monotonic()
    with pytest.raises(WorkerError, match="process 1 of 2 ended with code 3"):
        run_workers(command(text), 2)
    assert time.monotonic() - started < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "0").read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends them: Linux only")
def test_none_outlives_the_one_that_started_them(tmp_path: Path) -> None:
    text = (
        "from nsync_pipeline.graph.processes import die_with_parent; die_with_parent()\n"
        f"open(f'{tmp_path}/{{rank}}', 'w').write(str(os.getpid())); time.sleep(600)"
    )
    starter = (
        f"from nsync_pipeline.graph.processes import run_workers; run_workers({command(text)}, 2)"
    )
    parent = subprocess.Popen([sys.executable, "-c", starter])
    files = [tmp_path / "0", tmp_path / "1"]
    limit = time.monotonic() + 60
    while not all(file.is_file() and file.read_text() for file in files):
        assert time.monotonic() < limit
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for file in files:
        while Path(f"/proc/{file.read_text()}").exists():
            assert time.monotonic() < limit
            time.sleep(0.05)


def test_without_others_there_is_one() -> None:
    assert this_rank({}) == Rank(0, 1)
    assert this_rank({"RANK": "3", "WORLD_SIZE": "4"}) == Rank(0, 1)  # another program's
    assert this_rank({"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "a"}) == Rank(3, 4)
    assert not Rank(3, 4).is_first
