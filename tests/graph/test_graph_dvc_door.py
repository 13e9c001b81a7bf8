"""The door of DVC: real DVC, real engine, fake stages."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_workspace import BIN, FakeWorkspace

from nsync_pipeline.graph.dvc import sync_dvc_file

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1800)]

ALL = [
    "style_set-woodblock", "captions-woodblock", "negative_set-woodblock",
    "training-woodblock-lora-0", "training-woodblock-nsync-0",
    "training-woodblock-nsync_extended-0", "generation-woodblock-lora-0",
    "generation-woodblock-nsync-0", "generation-woodblock-nsync_extended-0",
    "base_generation-woodblock", "evaluation-woodblock", "report-woodblock",
]  # fmt: skip


def test_dvc_makes_what_is_out_of_date_and_only_that(fake_with_dvc: FakeWorkspace) -> None:
    fake = fake_with_dvc
    fake.dvc("repro", "--quiet")
    assert sorted(fake.ran()) == sorted(ALL)
    assert json.loads(fake.dvc("status", "--json").stdout) == {}
    fake.dvc("repro", "--quiet")
    assert fake.ran() == []
    _commit(fake, "all")

    fake.edit_params("  nsync:\n", "  nsync:\n    learning_rate: 0.0005\n")
    fake.dvc("repro", "--quiet")
    assert fake.ran() == [
        "training-woodblock-nsync-0", "generation-woodblock-nsync-0", "evaluation-woodblock",
        "report-woodblock",
    ]  # fmt: skip
    fake.edit_params("  rows: 8", "  rows: 9")
    fake.dvc("repro", "--quiet")
    assert fake.ran() == ["report-woodblock"]
    (fake.workspace.choices("woodblock") / "one.json").write_text("{}")
    assert list(json.loads(fake.dvc("status", "--json").stdout)) == ["report@woodblock"]
    fake.dvc("repro", "--quiet")
    assert fake.ran() == ["report-woodblock"]
    difference = json.loads(fake.dvc("metrics", "diff", "--json").stdout)
    assert set(difference) == {"evaluation/woodblock/metrics.json"}

    fake.edit_params("training_seeds: [0]", "training_seeds: [0, 1]")
    sync_dvc_file(fake.workspace)
    fake.dvc("repro", "--quiet")
    variants = ("lora", "nsync", "nsync_extended")
    new = [f"{stage}-woodblock-{v}-1" for stage in ("training", "generation") for v in variants]
    assert sorted(fake.ran()) == sorted([*new, "evaluation-woodblock", "report-woodblock"])
    assert json.loads(fake.dvc("status", "--json").stdout) == {}

    fake.dvc("exp", "run", "--quiet", "-S", "report.rows=5")
    assert fake.ran() == ["report-woodblock"]
    assert "rows: 5" in fake.workspace.params_file.read_text()

    plots = fake.root / "dvc_plots" / "index.html"
    fake.dvc("plots", "show")
    assert "woodblock: gradient norm" in plots.read_text()

    store = fake.root.parent / "remote"
    fake.dvc("remote", "add", "--local", "--default", "store", str(store))
    fake.dvc("push", "--quiet")
    for made in ("data", "models", "samples", "evaluation", "reports", ".dvc/cache"):
        shutil.rmtree(fake.root / made)
    fake.dvc("pull", "--quiet")
    assert json.loads(fake.dvc("status", "--json").stdout) == {}
    assert fake.ran() == []


def test_stage_ends_when_dvc_is_killed_and_nothing_is_recorded(
    fake_with_dvc: FakeWorkspace,
) -> None:
    fake = fake_with_dvc
    dvc = subprocess.Popen(
        [str(BIN / "dvc"), "repro", "--quiet", "style_set@woodblock"], cwd=fake.root,
        env={**fake.environment, "FAKE_SECONDS": "60"},
    )  # fmt: skip
    lock = fake.workspace.lock("style_set-woodblock")
    partial = fake.root / "data" / "woodblock" / ".style_set.partial" / "first.json"
    _until(partial.exists)
    stage = int(lock.read_text())
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    _until(lambda: not Path(f"/proc/{stage}").exists())
    assert not (fake.root / "dvc.lock").exists()
    fake.dvc("repro", "--quiet", "style_set@woodblock")
    assert fake.ran() == ["style_set-woodblock"]


def test_settings_edited_meanwhile_are_not_recorded(fake_with_dvc: FakeWorkspace) -> None:
    fake = fake_with_dvc
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "style_set@woodblock"], cwd=fake.root, text=True,
        env={**fake.environment, "FAKE_SECONDS": "3"}, stderr=subprocess.PIPE,
    )  # fmt: skip
    _until((fake.root / "data" / "woodblock" / ".style_set.partial" / "first.json").exists)
    fake.edit_params("test_fraction: 0.45", "test_fraction: 0.25")
    _, stderr = dvc.communicate(timeout=120)
    assert "inputs changed: style_set." in stderr
    assert "exited with 75" in stderr
    assert not (fake.root / "dvc.lock").exists()


def test_forgotten_variant_stops_dvc_before_anything_is_computed(
    fake_with_dvc: FakeWorkspace,
) -> None:
    fake = fake_with_dvc
    fake.edit_params("  nsync_extended:\n", "  gentle:\n    update_rule: none\n  nsync_extended:\n")
    done = fake.call(str(BIN / "dvc"), "repro", "--quiet")
    assert done.returncode != 0
    assert "`nsync sync` brings it in order" in done.stderr
    assert fake.ran() == []


def _commit(fake: FakeWorkspace, message: str) -> None:
    fake.call("git", "add", "--all")
    who = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    assert fake.call("git", *who, "commit", "--quiet", "-m", message).returncode == 0


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
