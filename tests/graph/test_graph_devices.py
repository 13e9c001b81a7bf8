"""Devices are given out one by one, between real processes; the devices are only names."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph import locks
from nsync_pipeline.graph import run as of_run
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.locks import (
    CARD,
    LEASED,
    VISIBLE,
    lease_folder,
    leased_devices,
    visible_devices,
)
from nsync_pipeline.graph.places import SLOTS
from nsync_pipeline.graph.progress import running
from nsync_pipeline.graph.run import Asked, run_in_processes, run_stage
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import Fakes, make_everything

HOLD = """
import os, sys
from nsync_pipeline.graph.locks import leased_devices
say = lambda text: print(text, flush=True)
with leased_devices(["0", "1"], int(sys.argv[1]), say, sys.argv[2]) as leased:
    print(*leased, os.environ.get("CUDA_VISIBLE_DEVICES", "-"), flush=True)
    sys.stdin.read()
"""
TWO = ("0", "1")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("NSYNC_LEASES", str(runtime))
    for name in (VISIBLE, LEASED, SLOTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(locks, "RETRY", 0.02)
    return runtime / f"nsync-{os.getuid()}"


@pytest.fixture
def hold() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a process that asks for devices, and keeps them until it is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(count: int = 1, kind: str = CARD) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(count), kind], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def refuse_to_wait(text: str) -> None:
    pytest.fail(f"nothing to wait for: {text}")


def test_two_get_different_ones_and_a_third_waits_and_is_told_once(
    hold: Callable[..., "subprocess.Popen[str]"],
) -> None:
    first, second = hold(), hold()
    assert {said(first), said(second)} == {"0 0", "1 1"}
    told: list[str] = []

    def on_wait(text: str) -> None:
        told.append(text)
        threading.Timer(0.3, second.kill).start()

    with leased_devices(TWO, 1, on_wait) as leased:
        assert len(leased) == 1
    assert told == ["waiting for 1 of the devices 0, 1, which others use"]


def test_a_lease_ends_with_its_process_however_that_ends(
    hold: Callable[..., "subprocess.Popen[str]"],
) -> None:
    process = hold(2)
    assert said(process) == "0 1 0,1"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with leased_devices(TWO, 2, refuse_to_wait) as leased:
        assert leased == TWO


def test_who_needs_several_keeps_each_that_gets_free(
    hold: Callable[..., "subprocess.Popen[str]"],
) -> None:
    """Those that need one would go first for ever, and two that each hold a part wait for ever."""
    first = hold()
    assert said(first) == "0 0"
    killed = hold(2)
    assert said(killed) == "waiting for 2 of the devices 0, 1, which others use"
    until(lambda: not is_free("1"))
    second, one = hold(2), hold()
    assert said(second).startswith("waiting for 2")
    assert said(one).startswith("waiting for 1")
    one.kill()
    killed.kill()
    first.kill()
    assert said(second) == "0 1 0,1"


def is_free(name: str) -> bool:
    with (lease_folder() / f"cuda-{name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "it never came to that"
        time.sleep(0.02)


def test_cuda_sees_what_was_leased_and_afterwards_what_it_saw_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with leased_devices(TWO, 1, refuse_to_wait):
        assert (os.environ[VISIBLE], os.environ[LEASED]) == ("0", "1")
    assert VISIBLE not in os.environ
    assert LEASED not in os.environ
    monkeypatch.setenv(VISIBLE, "1,3")
    with suppress(ZeroDivisionError), leased_devices(("1", "3"), 2, refuse_to_wait):
        assert os.environ[VISIBLE] == "1,3"
        raise ZeroDivisionError
    assert LEASED not in os.environ
    assert os.environ[VISIBLE] == "1,3"


def test_who_was_started_by_one_that_leased_takes_no_more(
    monkeypatch: pytest.MonkeyPatch, own_folder: Path
) -> None:
    monkeypatch.setenv(LEASED, "1")
    with leased_devices(TWO, 1, refuse_to_wait) as leased:
        assert leased == ()
    assert not own_folder.exists()


def test_without_devices_nothing_is_leased(own_folder: Path) -> None:
    with leased_devices((), 3, refuse_to_wait) as leased:
        assert leased == ()
    assert not own_folder.exists()


def test_more_than_there_are_is_told() -> None:
    with pytest.raises(UserError, match="3 devices are asked for, and there are 2"):
        leased_devices(TWO, 3, refuse_to_wait).__enter__()


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has this machine so many cards; without a variable, CUDA sees them all."""

    def there_are(count: int) -> None:
        monkeypatch.setattr(locks, "driver_is_there", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")

    return there_are


@pytest.mark.parametrize(
    ("named", "there", "visible"),
    [
        ("0,1", 8, ["0", "1"]),
        (" 2 , 0", 8, ["2", "0"]),
        ("", 8, []),
        ("-1", 8, []),
        ("0,-1,1", 8, ["0"]),
        ("0,0", 8, []),
        ("0,1", 1, ["0"]),  # torch counts those of the variable that are there
        ("0", 0, []),
        ("GPU-5ebe,GPU-77aa", 8, ["GPU-5ebe", "GPU-77aa"]),
        ("MIG-GPU-5ebe/1/0,MIG-12", 0, ["MIG-GPU-5ebe/1/0", "MIG-12"]),
        (None, 2, ["0", "1"]),
        (None, 0, []),
    ],
)
def test_devices_are_read_as_cuda_reads_them(
    cards: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    named: str | None,
    there: int,
    visible: list[str],
) -> None:
    cards(there)
    if named is not None:
        monkeypatch.setenv(VISIBLE, named)
    assert visible_devices() == visible


def test_a_link_in_the_place_of_a_lease_is_not_followed(own_folder: Path, tmp_path: Path) -> None:
    lease_folder()
    (own_folder / "cuda-0.lock").symlink_to(tmp_path / "somewhere")
    with pytest.raises(UserError, match=r"cuda-0\.lock is a link"):
        leased_devices(("0",), 1, refuse_to_wait).__enter__()
    assert not (tmp_path / "somewhere").exists()


@pytest.mark.parametrize("kind", ["link", "link to nothing", "file", "open to others"])
def test_a_folder_that_others_can_write_to_is_refused(
    own_folder: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "file":
        own_folder.write_text("")
    elif kind == "open to others":
        own_folder.mkdir()
        own_folder.chmod(0o777)
    else:
        own_folder.symlink_to(tmp_path if kind == "link" else tmp_path / "nothing")
    with pytest.raises(UserError, match="is not a folder that only you can write to"):
        lease_folder()


def test_somebody_elses_folder_is_refused(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease_folder()
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    own_folder.rename(own_folder.with_name(f"nsync-{other}"))
    with pytest.raises(UserError, match="is not a folder that only you can write to"):
        lease_folder()


def edit(workspace: Workspace, before: str, after: str) -> None:
    text = workspace.params_file.read_text()
    assert text.count(before) == 1, before
    workspace.params_file.write_text(text.replace(before, after))


def test_a_stage_sees_the_device_it_leased(
    fakes: Fakes,
    workspace: Workspace,
    cards: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards(8)
    edit(workspace, "device: cpu", "device: auto")
    monkeypatch.setenv(VISIBLE, "4,5")
    seen: list[str] = []
    fakes.meanwhile = lambda context: seen.append(os.environ[VISIBLE])
    for stage in ("style_set", "captions"):  # the first one computes nothing on a device
        run_stage(workspace, Asked(stage, "ink"))
    assert seen == ["4,5", "4"]
    assert os.environ[VISIBLE] == "4,5"


def test_on_the_cpu_nothing_is_leased_where_no_slots_are_set(
    fakes: Fakes, workspace: Workspace, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "4,5")
    for stage in ("style_set", "captions"):
        run_stage(workspace, Asked(stage, "ink"))
    assert not own_folder.exists()


def test_a_slot_is_cores_that_workspaces_share(
    fakes: Fakes,
    workspace: Workspace,
    hold: Callable[..., "subprocess.Popen[str]"],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """``nsync status`` shows that it waits, too."""
    monkeypatch.setattr("nsync_pipeline.graph.places.cores", lambda: (0, 1))
    edit(workspace, "seed: 0\n", "seed: 0\nexecutor: {slots: 1, threads: 2}\n")
    run_stage(workspace, Asked("style_set", "ink"))
    other = hold(1, "core")
    assert said(other) == "0 -"
    shown: list[str] = []

    def look() -> None:
        until(lambda: bool(running(workspace)))
        shown.extend(running(workspace).values())
        other.kill()

    looking = threading.Thread(target=look)
    looking.start()
    run_stage(workspace, Asked("captions", "ink"))
    looking.join()
    waits = "waiting for 2 of 2 cores, which others use"
    assert shown == [f"captions · ink: {waits}"]
    assert waits in capfd.readouterr().out
    assert running(workspace) == {}
    assert VISIBLE not in os.environ


def workers_seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None, str | None]]:
    seen: list[tuple[int, int | None, str | None]] = []

    def run(command: object, count: int, threads: int | None) -> None:
        seen.append((count, threads, os.environ.get(VISIBLE)))

    monkeypatch.setattr(of_run, "run_workers", run)
    return seen


def test_a_training_in_processes_leases_one_each(
    workspace: Workspace, cards: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(3)
    edit(workspace, "device: cpu", "device: cuda")
    monkeypatch.setenv(VISIBLE, "4,5,6")
    seen = workers_seen(monkeypatch)
    run_in_processes(workspace, Asked("training", "ink", "lora", processes=2))
    assert seen == [(2, None, "4,5")]
    with pytest.raises(UserError, match=r"--processes 4: .* 3 stages at once, on the devices 4, 5"):
        run_in_processes(workspace, Asked("training", "ink", "lora", processes=4))
    monkeypatch.setenv(VISIBLE, "MIG-a,MIG-b")
    with pytest.raises(UserError, match="names parts of one: MIG-a, MIG-b"):
        run_in_processes(workspace, Asked("training", "ink", "lora", processes=2))


def test_a_training_in_processes_on_the_cpu_leases_a_slot_each(
    workspace: Workspace, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsync_pipeline.graph.places.cores", lambda: tuple(range(4)))
    edit(workspace, "seed: 0\n", "seed: 0\nexecutor: {slots: 2}\n")
    seen = workers_seen(monkeypatch)
    run_in_processes(workspace, Asked("training", "ink", "lora", processes=2))
    assert seen == [(2, 2, None)]
    assert {path.name for path in own_folder.iterdir()} > {f"core-{n}.lock" for n in range(4)}
    with pytest.raises(UserError, match=r"--processes 3: .* 2 stages at once, on 2 cores each"):
        run_in_processes(workspace, Asked("training", "ink", "lora", processes=3))


def test_a_training_that_torchrun_started_leases_one_for_each_process_here(
    fakes: Fakes,
    workspace: Workspace,
    cards: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They use the first ones; the first process leases them for all."""
    cards(3)
    edit(workspace, "device: cpu", "device: cuda")
    make_everything(Graph.read(workspace))
    place = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here"}
    for name, value in {**place, VISIBLE: "4,5,6"}.items():
        monkeypatch.setenv(name, value)
    seen: list[str] = []
    fakes.meanwhile = lambda context: seen.append(os.environ[VISIBLE])
    run_stage(workspace, Asked("training", "ink", "lora", force=True))
    assert seen == ["4,5"]
    made = json.loads((workspace.model("ink", "lora", 0) / "made.json").read_text())
    assert made["device"] == "A card"
