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

from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.run import Asked, run_stage
from tests.support.fake_stages import Fakes, all_artefacts, make_everything
from tests.support.fake_workspace import BIN, FakeWorkspace, copied, make_fake_workspace

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1800)]

STAGES = ("style_set", "captions", "negative_set", "base_generation", "evaluation", "report")
TRAININGS = [
    f"{stage}-ink-{variant}-0"
    for stage in ("training", "generation")
    for variant in ("lora", "nsync")
]
ALL = sorted([*(f"{stage}-ink" for stage in STAGES), *TRAININGS])
OF_NSYNC = ["training-ink-nsync-0", "generation-ink-nsync-0", "evaluation-ink", "report-ink"]
MADE = ("data", "models", "samples", "evaluation", "reports")


def repro(fake: FakeWorkspace, *arguments: str, **environment: str) -> list[str]:
    """What ``dvc repro`` ran."""
    fake.dvc("repro", "--quiet", *arguments, **environment)
    return fake.ran()


def out_of_date(fake: FakeWorkspace) -> list[str]:
    """The stages of ``dvc.yaml`` that DVC would start; those of an ablation are not asked about."""
    status = json.loads(fake.dvc("status", "--json").stdout)
    return [name for name in status if not name.startswith("ablations/")]


def states(fake: FakeWorkspace) -> dict[str, tuple[int, int]]:
    """Which files there are, told from others of the same name."""
    return {
        path.relative_to(fake.root).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for kind in MADE
        for path in (fake.root / kind).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> FakeWorkspace:
    """A workspace in which DVC made all there is; tests get copies."""
    fake = make_fake_workspace(tmp_path_factory.mktemp("made") / "one")
    assert sorted(repro(fake)) == ALL
    return fake


@pytest.fixture
def made(made_once: FakeWorkspace, tmp_path: Path) -> FakeWorkspace:
    return copied(made_once, tmp_path / "one")


def test_dvc_makes_what_is_out_of_date_and_only_that(made: FakeWorkspace) -> None:
    fake = made
    assert out_of_date(fake) == []
    assert repro(fake) == []
    _commit(fake, "all")
    first = fake.workspace.model("ink", "nsync", 0) / "first.json"
    before, content = states(fake), first.read_bytes()

    nsync = "nsync: {update_rule: orthogonal}"
    fake.edit_params(nsync, "nsync: {update_rule: orthogonal, learning_rate: 0.0005}")
    assert repro(fake) == OF_NSYNC
    after = states(fake)
    kept = {name for name in before if name.startswith(("data/", "samples/ink/base/"))}
    kept |= {name for name in before if "/lora/" in name}
    assert {name for name in kept if after[name] != before[name]} == set()
    difference = json.loads(fake.dvc("metrics", "diff", "--json").stdout)
    assert set(difference) == {"evaluation/ink/figures/style_margin.json"}

    # Changed back: the earlier model and its pictures are brought back, nothing is trained. DVC's
    # run cache is not for outputs that stay in place: the engine has its own.
    fake.edit_params(", learning_rate: 0.0005", "")
    assert not {"training-ink-nsync-0", "generation-ink-nsync-0"} & set(repro(fake))
    assert first.read_bytes() == content
    assert out_of_date(fake) == []
    assert fake.nsync("status").stdout == "10 fresh\n"

    (fake.workspace.choices("ink") / "one.json").write_text("{}")
    assert out_of_date(fake) == ["report@ink"]
    assert repro(fake) == ["report-ink"]

    # What decides nothing: DVC may start a stage, which has nothing to do.
    fake.edit_params("learning_rate: 0.002\n", "learning_rate: 0.002\n  checkpoint_every: 7\n")
    fake.edit_params("pictures: 8", "rights: my own pictures, pictures: 8")
    assert repro(fake) == []
    assert out_of_date(fake) == []


def test_a_seed_more_makes_its_own_trainings(made: FakeWorkspace) -> None:
    fake = made
    fake.edit_params("training_seeds: [0]\n", "training_seeds: [0, 1]\n")
    refused = fake.call(str(BIN / "dvc"), "repro", "--quiet")
    assert refused.returncode != 0
    assert "`nsync sync` brings it in order" in refused.stderr
    assert fake.ran() == []
    assert fake.nsync("sync").returncode == 0
    new = [name.removesuffix("0") + "1" for name in TRAININGS]
    assert sorted(repro(fake)) == sorted([*new, "evaluation-ink", "report-ink"])
    assert out_of_date(fake) == []

    plots = fake.root / "dvc_plots" / "index.html"
    fake.dvc("plots", "show")
    page = plots.read_text()
    assert "loss_positive.png" in page
    assert "cdn." not in page  # it works offline


def test_what_was_run_by_hand_is_only_recorded(fake_with_dvc: FakeWorkspace, fakes: Fakes) -> None:
    fake = fake_with_dvc
    for artefact in all_artefacts(Graph.read(fake.workspace), "ink"):
        asked = Asked(artefact.stage.name, "ink", artefact.variant, artefact.training_seed)
        run_stage(fake.workspace, asked)
    assert sorted(fakes.ran) == ALL
    before = states(fake)
    assert repro(fake) == []
    assert {name for name, state in states(fake).items() if before[name][1] != state[1]} == set()
    assert out_of_date(fake) == []


def test_a_failed_stage_leaves_its_earlier_output(made: FakeWorkspace) -> None:
    fake = made
    before = states(fake)
    fake.edit_params("learning_rate: 0.002", "learning_rate: 0.003")
    done = fake.call(str(BIN / "dvc"), "repro", "--quiet", FAKE_FAILS="training")
    assert done.returncode != 0
    assert "training was told to fail" in done.stderr
    assert states(fake) == before
    assert sorted(repro(fake)) == sorted([*TRAININGS, "evaluation-ink", "report-ink"])


def test_a_mistake_in_params_yaml_leaves_every_artefact(made: FakeWorkspace) -> None:
    fake = made
    before = states(fake)
    fake.edit_params("learning_rate: 0.002", "learning_rate: 0.003\n  stpes: 9")
    done = fake.call(str(BIN / "dvc"), "repro", "--quiet")
    assert done.returncode != 0
    assert "stpes: unknown key (did you mean steps?)" in done.stderr
    assert states(fake) == before


def test_everything_comes_back_from_a_remote(made: FakeWorkspace) -> None:
    fake = made
    fake.dvc("remote", "add", "--local", "--default", "store", str(fake.root.parent / "remote"))
    fake.dvc("push", "--quiet")
    for folder in (*MADE, ".dvc/cache", ".nsync"):
        shutil.rmtree(fake.root / folder)
    fake.dvc("pull", "--quiet")
    assert out_of_date(fake) == []
    assert repro(fake) == []
    assert fake.nsync("status").stdout == "10 fresh\n"


def test_two_workspaces_record_the_same(made_once: FakeWorkspace, tmp_path: Path) -> None:
    fake = make_fake_workspace(tmp_path / "another" / "place")
    repro(fake)
    lock = (fake.root / "dvc.lock").read_text()
    assert lock == (made_once.root / "dvc.lock").read_text()
    assert str(tmp_path) not in lock


def test_the_ablation_is_a_file_of_its_own(made: FakeWorkspace) -> None:
    fake = made
    own = [
        f"{stage}-ink-{variant}-{seed}"
        for stage in ("training", "generation")
        for variant in ("none", "orthogonal")
        for seed in (0, 1)
    ]
    ablated = sorted([*own, "evaluation-ink", "report-ink"])
    assert fake.nsync("sync", "--ablation").returncode == 0
    assert sorted(repro(fake, "ablations/dvc.yaml")) == ablated
    assert (fake.root / "ablations" / "dvc.lock").is_file()
    assert json.loads(fake.dvc("status", "--json").stdout) == {}
    assert repro(fake, "ablations/dvc.yaml") == []
    fake.edit_params("ablation:\n  training_seeds: [0, 1]", "ablation:\n  training_seeds: [0]")
    assert fake.nsync("sync").returncode == 0
    assert repro(fake) == []
    assert repro(fake, "ablations/dvc.yaml") == ["evaluation-ink", "report-ink"]


def test_stage_ends_when_dvc_is_killed_and_nothing_is_recorded(
    fake_with_dvc: FakeWorkspace,
) -> None:
    fake = fake_with_dvc
    dvc = subprocess.Popen(
        [str(BIN / "dvc"), "repro", "--quiet", "style_set@ink"], cwd=fake.root,
        env={**fake.environment, "FAKE_SECONDS": "60"},
    )  # fmt: skip
    lock = fake.workspace.lock("style_set-ink")
    partial = fake.root / "data" / "ink" / ".style_set.partial" / "first.json"
    _until(partial.exists)
    stage = int(lock.read_text())
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    _until(lambda: not Path(f"/proc/{stage}").exists())
    assert not (fake.root / "dvc.lock").exists()
    assert repro(fake, "style_set@ink") == ["style_set-ink"]


def test_two_stages_that_wait_for_each_others_locks_run_side_by_side(
    fake_with_dvc: FakeWorkspace, tmp_path: Path
) -> None:
    """A fake training ends only when another is under way."""
    make_everything(Graph.read(fake_with_dvc.workspace))
    shutil.rmtree(fake_with_dvc.root / "models")
    (tmp_path / "meeting").mkdir()
    own = {**fake_with_dvc.environment, "FAKE_MEETING": str(tmp_path / "meeting")}
    command = [str(BIN / "dvc"), "--wait-for-lock", "repro", "--quiet", "--single-item"]
    both = [
        subprocess.Popen([*command, f"training@ink-{variant}-0"], cwd=fake_with_dvc.root, env=own)
        for variant in ("lora", "nsync")
    ]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert sorted(fake_with_dvc.ran()) == ["training-ink-lora-0", "training-ink-nsync-0"]
    lock = (fake_with_dvc.root / "dvc.lock").read_text()  # it holds what both of them wrote
    assert "training@ink-lora-0:" in lock
    assert "training@ink-nsync-0:" in lock


def test_settings_edited_meanwhile_are_not_recorded(fake_with_dvc: FakeWorkspace) -> None:
    fake = fake_with_dvc
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "style_set@ink"], cwd=fake.root, text=True,
        env={**fake.environment, "FAKE_SECONDS": "3"}, stderr=subprocess.PIPE,
    )  # fmt: skip
    _until((fake.root / "data" / "ink" / ".style_set.partial" / "first.json").exists)
    fake.edit_params("pictures: 8", "pictures: 9")
    _, stderr = dvc.communicate(timeout=120)
    assert "inputs changed: settings: style.pictures 8 -> 9" in stderr
    assert "exited with 75" in stderr
    assert not (fake.root / "dvc.lock").exists()


def _commit(fake: FakeWorkspace, message: str) -> None:
    fake.call("git", "add", "--all")
    who = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    assert fake.call("git", *who, "commit", "--quiet", "-m", message).returncode == 0


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
