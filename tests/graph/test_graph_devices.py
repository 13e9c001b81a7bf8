"""Accelerators are given out one by one, between real processes; the devices are only names."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nsync_pipeline.errors import UserError
from nsync_pipeline.graph import locks
from nsync_pipeline.graph import run as of_run
from nsync_pipeline.graph.locks import (
    LEASED,
    VISIBLE,
    lease_folder,
    leased_devices,
    visible_devices,
)
from nsync_pipeline.graph.run import Asked, run_in_processes, run_stage
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import Fakes

HOLD = """
import os, sys
from nsync_pipeline.graph.locks import leased_devices
with leased_devices(["0", "1"], int(sys.argv[1]), lambda text: print(text, flush=True)) as leased:
    print(*leased, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""
TWO = ("0", "1")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for name in (VISIBLE, LEASED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(locks, "RETRY", 0.02)
    return runtime / f"nsync-{os.getuid()}"


@pytest.fixture
def hold() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a process that asks for devices, and keeps them until it is ended."""
    started: list[subprocess.Popen[str]] = []

    def start(count: int = 1) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(count)], text=True,
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


def test_several_are_leased_at_once_or_none(
    hold: Callable[..., "subprocess.Popen[str]"],
) -> None:
    """Who waits for two holds none meanwhile: another can have the one that is free."""
    first = hold()
    assert said(first) == "0 0"
    waits = hold(2)
    assert said(waits).startswith("waiting for 2 of the devices")
    with leased_devices(TWO, 1, lambda text: None) as leased:
        assert leased == ("1",)
    first.kill()
    assert said(waits) == "0 1 0,1"


def test_cuda_sees_what_was_leased_and_afterwards_what_it_saw_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with leased_devices(TWO, 1, refuse_to_wait):
        assert (os.environ[VISIBLE], os.environ[LEASED]) == ("0", "1")
    assert VISIBLE not in os.environ
    assert LEASED not in os.environ
    monkeypatch.setenv(VISIBLE, "1,3")
    with suppress(ZeroDivisionError), leased_devices(visible_devices(), 2, refuse_to_wait):
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


@pytest.mark.parametrize(
    ("named", "visible"),
    [
        ("0,1", ["0", "1"]),
        (" 2 , 0", ["2", "0"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("GPU-5ebe,MIG-GPU-5ebe/1/0", ["GPU-5ebe", "MIG-GPU-5ebe/1/0"]),
    ],
)
def test_devices_are_read_as_cuda_reads_them(
    monkeypatch: pytest.MonkeyPatch, named: str, visible: list[str]
) -> None:
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


def test_a_stage_sees_the_device_it_leased(
    fakes: Fakes, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(text.replace("device: cpu", "device: auto"))
    monkeypatch.setenv(VISIBLE, "4,5")
    seen: list[str] = []
    fakes.meanwhile = lambda context: seen.append(os.environ[VISIBLE])
    for stage in ("style_set", "captions"):  # the first one computes nothing on a device
        run_stage(workspace, Asked(stage, "ink"))
    assert seen == ["4,5", "4"]
    assert os.environ[VISIBLE] == "4,5"


def test_on_the_cpu_no_device_is_leased(
    fakes: Fakes, workspace: Workspace, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, "4,5")
    for stage in ("style_set", "captions"):
        run_stage(workspace, Asked(stage, "ink"))
    assert not own_folder.exists()


def test_a_training_in_processes_leases_one_each(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(text.replace("device: cpu", "device: cuda"))
    monkeypatch.setenv(VISIBLE, "4,5,6")
    seen: list[Any] = []
    monkeypatch.setattr(
        of_run, "run_workers", lambda command, count: seen.append((count, os.environ[VISIBLE]))
    )
    run_in_processes(workspace, Asked("training", "ink", "lora", processes=2))
    assert seen == [(2, "4,5")]
    with pytest.raises(UserError, match="4 devices are asked for, and there are 3"):
        run_in_processes(workspace, Asked("training", "ink", "lora", processes=4))
