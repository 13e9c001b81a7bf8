"""Dagster and DVC agree on what is fresh, whichever of them made it; stages are fakes."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from nsync_pipeline.graph.dvc import sync_dvc_file
from tests.support.fake_workspace import FakeWorkspace, make_fake_workspace

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1800)]

STALENESS = Path(__file__).with_name("staleness.py")
CHANGED = [
    "training-woodblock-nsync-0", "generation-woodblock-nsync-0", "evaluation-woodblock",
    "report-woodblock",
]  # fmt: skip


def test_dagster_and_dvc_agree(tmp_path: Path) -> None:
    fake = make_fake_workspace(tmp_path)

    # Dagster makes all of it: DVC finds nothing to do.
    made = _materialize(fake)
    assert "12 artefacts made" in made
    assert len(fake.ran()) == 12
    assert json.loads(fake.dvc("status", "--json").stdout) == {}
    assert _not_fresh(fake) == {}

    # Again: nothing is run.
    assert "Everything is fresh" in _materialize(fake)
    assert fake.ran() == []

    # One variant's setting is edited: what it is read for is stale, and Dagster makes only that.
    fake.edit_params("  nsync:\n", "  nsync:\n    learning_rate: 0.0005\n")
    assert _not_fresh(fake, "sync") == {"lora woodblock|nsync-0": "STALE"}
    assert "4 artefacts made" in _materialize(fake)
    assert fake.ran() == CHANGED
    assert _not_fresh(fake) == {}
    assert json.loads(fake.dvc("status", "--json").stdout) == {}

    # It is edited again, and DVC makes it: Dagster knows as soon as dvc.lock is carried over.
    fake.edit_params("learning_rate: 0.0005", "learning_rate: 0.0007")
    fake.dvc("repro", "--quiet")
    assert fake.ran() == CHANGED
    assert _not_fresh(fake, "sync") == {}
    assert "Everything is fresh" in _materialize(fake)

    # It is taken back: DVC restores from its cache, no stage runs, and Dagster is told.
    fake.edit_params("learning_rate: 0.0007", "learning_rate: 0.0005")
    assert "4 artefacts made" in _materialize(fake)
    assert fake.ran() == []
    assert _not_fresh(fake) == {}

    # Somebody's choices come in: the report shows them, and nothing else reads them.
    (fake.workspace.choices("woodblock") / "one.json").write_text("{}")
    assert _not_fresh(fake, "sync") == {"report woodblock": "STALE"}
    assert "1 artefacts made" in _materialize(fake)
    assert fake.ran() == ["report-woodblock"]
    assert _not_fresh(fake) == {}
    assert json.loads(fake.dvc("status", "--json").stdout) == {}

    # A training seed is added: of the trainings only the new ones are made, and then the rest.
    fake.edit_params("training_seeds: [0]", "training_seeds: [0, 1]")
    sync_dvc_file(fake.workspace)
    new = {
        f"{asset} woodblock|{variant}-1": "MISSING"
        for asset in ("lora", "samples")
        for variant in ("lora", "nsync", "nsync_extended")
    }
    stale = {"evaluation woodblock": "STALE", "report woodblock": "STALE"}
    assert _not_fresh(fake, "sync", artefacts=18) == new | stale
    assert "8 artefacts made" in _materialize(fake)
    ran = fake.ran()
    assert len(ran) == 8
    assert ran[:2] == ["training-woodblock-lora-1", "generation-woodblock-lora-1"]
    assert _not_fresh(fake, artefacts=18) == {}
    assert json.loads(fake.dvc("status", "--json").stdout) == {}


def test_workspace_older_than_choices_is_told_what_to_do(tmp_path: Path) -> None:
    fake = make_fake_workspace(tmp_path)
    shutil.rmtree(fake.root / "choices")
    done = fake.call(sys.executable, "-m", "assets.materialize", "--style", "woodblock")
    assert done.returncode == 2
    assert "choices/woodblock is not there" in done.stderr
    assert "`nsync sync` brings it in order" in done.stderr
    assert fake.ran() == []


def test_failed_stage_is_said_and_the_rest_is_left(tmp_path: Path) -> None:
    fake = make_fake_workspace(tmp_path)
    done = fake.call(sys.executable, "-m", "assets.materialize", "--style", "woodblock",
                     FAKE_FAILS="captions")  # fmt: skip
    assert done.returncode == 2
    assert "captions was told to fail" in done.stderr
    assert "Traceback" not in done.stderr
    assert fake.ran() == ["style_set-woodblock"]
    assert fake.workspace.style_set("woodblock").is_dir()
    assert not fake.workspace.captions("woodblock").exists()


def test_killed_run_is_ended_and_gone_on_from(tmp_path: Path) -> None:
    """kill -9 of all that runs leaves a run that looks alive and holds the pool ``gpu``."""
    fake = make_fake_workspace(tmp_path)
    command = [sys.executable, "-m", "assets.materialize", "--style", "woodblock"]
    process = subprocess.Popen(
        command, cwd=fake.root, env={**fake.environment, "FAKE_SLOW": "negative_set"}
    )
    partial = fake.root / "data" / "woodblock" / ".negative_set.partial" / "first.json"
    deadline = time.monotonic() + 600
    while not partial.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stage = int(fake.workspace.lock("negative_set-woodblock").read_text())
    process.kill()
    process.wait()
    while Path(f"/proc/{stage}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    made_before = len(fake.ran())
    assert f"{12 - made_before} artefacts made" in _materialize(fake)
    assert len(fake.ran()) == 12 - made_before


def test_unknown_style_is_named(tmp_path: Path) -> None:
    fake = make_fake_workspace(tmp_path)
    done = fake.call(sys.executable, "-m", "assets.materialize", "--style", "ink")
    assert done.returncode == 2
    assert "style 'ink' is not in params.yaml; there are: woodblock" in done.stderr


def _materialize(fake: FakeWorkspace) -> str:
    done = fake.call(sys.executable, "-m", "assets.materialize", "--style", "woodblock")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _not_fresh(fake: FakeWorkspace, *arguments: str, artefacts: int = 12) -> dict[str, str]:
    done = fake.call(sys.executable, str(STALENESS), *arguments)
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout)
    assert len(statuses) == artefacts
    return {name: status for name, status in statuses.items() if status != "FRESH"}
