"""One stage, run as the command line runs it; stages are fakes, processes are real."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace
from nsync_pipeline.graph.inputs import read_tree, tree_digest
from nsync_pipeline.graph.records import read_record

from nsync_pipeline.errors import MissingArtifactError, ParamsError, UserError
from nsync_pipeline.graph import STAGES, Place, run_stage
from nsync_pipeline.graph.disk_full import disk_full_explained
from nsync_pipeline.graph.run import read_inputs
from nsync_pipeline.params import read_params

STYLE = ("--style", "woodblock")


def test_artefact_and_what_was_said_of_it_are_kept(fake: FakeWorkspace) -> None:
    done = fake.nsync("run", "style_set", *STYLE)
    assert done.returncode == 0, done.stderr
    folder = fake.workspace.style_set("woodblock")
    assert {path.name for path in folder.iterdir()} >= {"first.json", "last.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["style_set"]
    record = read_record(fake.workspace, tree_digest(read_tree(folder)))
    assert record is not None
    assert record.figures == {"files": 4}  # three keys of settings, and the source's README
    assert record.previews[0].jpeg.startswith(b"\xff\xd8")


def test_report_needs_no_choices_and_nothing_less_than_the_rest(fake: FakeWorkspace) -> None:
    shutil.rmtree(fake.root / "choices")
    params, report = read_params(fake.workspace.params_file), STAGES["report"]
    place = Place(fake.workspace, "woodblock")
    rest = [path for path in report.inputs(place, params.training_runs())
            if path != fake.workspace.choices("woodblock")]  # fmt: skip
    for path in rest:
        path.mkdir(parents=True)
    without = read_inputs(report, place, params).digest()
    fake.workspace.choices("woodblock").mkdir(parents=True)
    (fake.workspace.choices("woodblock") / "one.json").write_text("{}")
    assert read_inputs(report, place, params).digest() != without
    fake.workspace.evaluation("woodblock").rmdir()
    with pytest.raises(MissingArtifactError, match="run evaluation first"):
        read_inputs(report, place, params)


def test_failed_stage_leaves_nothing_where_nothing_was(fake: FakeWorkspace) -> None:
    done = fake.nsync("run", "style_set", *STYLE, FAKE_FAILS="style_set")
    assert done.returncode == 1
    assert "style_set was told to fail" in done.stderr
    assert not fake.workspace.style_set("woodblock").exists()


def test_failed_stage_leaves_the_earlier_artefact_as_it_was(fake: FakeWorkspace) -> None:
    assert fake.nsync("run", "style_set", *STYLE).returncode == 0
    before = tree_digest(read_tree(fake.workspace.style_set("woodblock")))
    fake.edit_params("seed: 0", "seed: 1")
    assert fake.nsync("run", "style_set", *STYLE, FAKE_FAILS="style_set").returncode == 1
    assert tree_digest(read_tree(fake.workspace.style_set("woodblock"))) == before


def test_killed_stage_leaves_no_artefact_and_can_be_run_again(fake: FakeWorkspace) -> None:
    partial = fake.workspace.root / "data" / "woodblock" / ".style_set.partial" / "first.json"
    process = _started(fake, partial)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    assert not fake.workspace.style_set("woodblock").exists()
    assert fake.nsync("run", "style_set", *STYLE).returncode == 0
    assert not partial.exists()


def test_second_run_on_one_artefact_is_refused(fake: FakeWorkspace) -> None:
    partial = fake.workspace.root / "data" / "woodblock" / ".style_set.partial" / "first.json"
    process = _started(fake, partial)
    try:
        done = fake.nsync("run", "style_set", *STYLE)
        assert done.returncode == 1
        assert f"is being written by process {process.pid}:" in done.stderr
        assert partial.exists()
    finally:
        process.kill()
        process.wait()


def test_settings_changed_meanwhile_end_in_75_and_no_artefact(fake: FakeWorkspace) -> None:
    partial = fake.workspace.root / "data" / "woodblock" / ".style_set.partial" / "first.json"
    process = _started(fake, partial, seconds="2")
    fake.edit_params("test_fraction: 0.45", "test_fraction: 0.25")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "inputs changed: style_set." in stderr
    assert not fake.workspace.style_set("woodblock").exists()


def test_missing_artefact_says_which_stage_makes_it(fake: FakeWorkspace) -> None:
    with pytest.raises(MissingArtifactError, match="captions reads it: run style_set first"):
        run_stage(fake.workspace, "captions", "woodblock")


@pytest.mark.parametrize(
    ("stage", "style", "variant", "message"),
    [
        ("train", "woodblock", None, "'train' is not a stage; there are: style_set, captions"),
        ("training", "woodblock", None, "say which with --variant"),
        ("training", "woodblock", "best", "variant 'best' is not in params.yaml"),
        ("generation", "woodblock", "base", "base_generation"),
        ("captions", "woodblock", "lora", "leave --variant out"),
        ("captions", "ink", None, "style 'ink' is not in params.yaml"),
    ],
)
def test_what_is_not_there_is_named(
    fake: FakeWorkspace, stage: str, style: str, variant: str | None, message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        run_stage(fake.workspace, stage, style, variant)


def test_a_training_seed_goes_only_with_trainings_and_must_be_there(fake: FakeWorkspace) -> None:
    with pytest.raises(ParamsError, match="not once a training: leave --training-seed out"):
        run_stage(fake.workspace, "captions", "woodblock", training_seed=0)
    with pytest.raises(ParamsError, match=r"training seed 4 is not in training_seeds .*: 0"):
        run_stage(fake.workspace, "training", "woodblock", "lora", 4)


def test_a_file_in_the_place_of_an_artefact_is_not_touched(fake: FakeWorkspace) -> None:
    place = fake.workspace.style_set("woodblock")
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    done = fake.nsync("run", "style_set", *STYLE)
    assert done.returncode == 1
    assert "is not a folder" in done.stderr
    assert place.read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    """``/dev/full`` answers every write as a full disk does."""
    with (
        pytest.raises(UserError, match=f"The disk is full: {tmp_path} has"),
        disk_full_explained(tmp_path),
        open("/dev/full", "wb", buffering=0) as full,  # noqa: PTH123
    ):
        full.write(b"x")


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_full_explained(tmp_path):
        (tmp_path / "nothing").read_bytes()


def _started(fake: FakeWorkspace, until: Path, seconds: str = "60") -> "subprocess.Popen[str]":
    """A run of style_set that has begun to write."""
    process = subprocess.Popen(
        ["nsync", "run", "style_set", *STYLE], cwd=fake.root, text=True,
        env={**fake.environment, "FAKE_SECONDS": seconds}, stderr=subprocess.PIPE,
        executable=str(fake.root.parent / "bin" / "nsync"),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not until.exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process
