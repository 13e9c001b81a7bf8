"""One stage, run as every door runs it; stages are fakes."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nsync_pipeline.errors import (
    ElsewhereError,
    InputsChangedError,
    MissingArtifactError,
    ParamsError,
    UserError,
    WorkspaceBusyError,
)
from nsync_pipeline.files import disk_full_explained
from nsync_pipeline.graph import run as of_run
from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.graph.made import read_made
from nsync_pipeline.graph.processes import UNDER_DVC
from nsync_pipeline.graph.run import Asked, Outcome, require_own_engine, run_stage
from nsync_pipeline.graph.table import STAGES
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import Fakes
from tests.support.fake_workspace import REPOSITORY, FakeWorkspace

RUN = ("run", "style_set", "--style", "ink")


def run(workspace: Workspace, stage: str = "style_set", **more: Any) -> Outcome:
    outcome = run_stage(workspace, Asked(stage, "ink", **more))
    assert outcome is not None
    return outcome


def edit(workspace: Workspace, before: str, after: str) -> None:
    text = workspace.params_file.read_text()
    assert text.count(before) == 1, before
    workspace.params_file.write_text(text.replace(before, after))


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_artefact_is_made_once_and_is_then_up_to_date(
    fakes: Fakes, workspace: Workspace
) -> None:
    first, second = run(workspace), run(workspace)
    assert (first.is_new, second.is_new) == (True, False)
    assert first.made == second.made
    assert fakes.ran == ["style_set-ink"]
    folder = workspace.style_set("ink")
    assert {path.name for path in folder.iterdir()} >= {
        "first.json", "last.json", "made.json", "SHA256SUMS", "preview-1.jpg"
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["style_set"]


def test_force_makes_it_again(fakes: Fakes, workspace: Workspace) -> None:
    run(workspace)
    assert run(workspace, force=True).is_new
    assert fakes.ran == ["style_set-ink"] * 2


def test_a_failed_stage_leaves_nothing_where_nothing_was(
    fakes: Fakes, workspace: Workspace
) -> None:
    fakes.fails = "style_set"
    with pytest.raises(UserError, match="style_set was told to fail"):
        run(workspace)
    assert list((workspace.root / "data" / "ink").iterdir()) == []


def test_a_failed_stage_leaves_the_earlier_artefact_as_it_was(
    fakes: Fakes, workspace: Workspace
) -> None:
    run(workspace)
    before = content(workspace.root / "data")
    edit(workspace, "seed: 0", "seed: 1")
    fakes.fails = "style_set"
    with pytest.raises(UserError, match="told to fail"):
        run(workspace)
    assert content(workspace.root / "data") == before


def test_settings_edited_meanwhile_are_named_and_nothing_is_put_in_place(
    fakes: Fakes, workspace: Workspace
) -> None:
    run(workspace)
    before = content(workspace.root / "data")
    edit(workspace, "seed: 0", "seed: 1")
    fakes.meanwhile = lambda _: edit(workspace, "pictures: 8", "pictures: 9")
    with pytest.raises(InputsChangedError, match=r"settings: style\.pictures 8 -> 9") as caught:
        run(workspace)
    assert caught.value.exit_code == 75
    assert content(workspace.root / "data") == before


def test_pictures_that_come_meanwhile_are_named(fakes: Fakes, workspace: Workspace) -> None:
    source = workspace.source("ink")
    source.mkdir(parents=True)
    fakes.meanwhile = lambda _: (source / "new.png").write_bytes(b"new")
    with pytest.raises(InputsChangedError, match="inputs: sources/ink"):
        run(workspace)


def test_an_input_made_anew_meanwhile_is_named(fakes: Fakes, workspace: Workspace) -> None:
    run(workspace)

    def make_again(context: object) -> None:
        fakes.meanwhile = None
        edit(workspace, "seed: 0", "seed: 1")
        run(workspace)

    fakes.meanwhile = make_again
    with pytest.raises(InputsChangedError, match="inputs: data/ink/style_set"):
        run(workspace, "captions")
    assert not workspace.captions("ink").exists()


def test_a_params_file_broken_meanwhile_is_told(fakes: Fakes, workspace: Workspace) -> None:
    fakes.meanwhile = lambda _: edit(workspace, "seed: 0", "sede: 0")
    with pytest.raises(InputsChangedError, match="sede: unknown key"):
        run(workspace)
    assert not workspace.style_set("ink").exists()


def test_what_a_stage_does_not_read_may_change_meanwhile(
    fakes: Fakes, workspace: Workspace
) -> None:
    fakes.meanwhile = lambda _: edit(workspace, "learning_rate: 0.002", "learning_rate: 0.003")
    assert run(workspace).is_new


def test_a_damaged_input_is_named_and_not_read(fakes: Fakes, workspace: Workspace) -> None:
    run(workspace)
    (workspace.style_set("ink") / "last.json").write_text("{}")
    with pytest.raises(MissingArtifactError, match=r"style_set/last\.json is not what the stage"):
        run(workspace, "captions")
    assert fakes.ran == ["style_set-ink"]


def test_a_damaged_artefact_is_made_again_and_that_is_told(
    fakes: Fakes, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(workspace)
    before = content(workspace.style_set("ink"))
    (workspace.style_set("ink") / "last.json").write_text("{}")
    assert run(workspace).is_new
    assert "it is made again" in capsys.readouterr().out
    assert content(workspace.style_set("ink")) == before


def test_a_torn_made_json_counts_as_missing(fakes: Fakes, workspace: Workspace) -> None:
    run(workspace)
    made = workspace.style_set("ink") / "made.json"
    whole = made.read_bytes()
    made.write_bytes(whole[:100])
    assert read_made(made.parent) is None
    assert run(workspace).is_new
    assert made.read_bytes() == whole


def test_a_missing_input_says_which_stage_makes_it(fakes: Fakes, workspace: Workspace) -> None:
    with pytest.raises(MissingArtifactError, match="captions reads it: run style_set first"):
        run(workspace, "captions")


def test_what_was_made_from_different_things_is_not_mixed(
    fakes: Fakes, workspace: Workspace
) -> None:
    """The captions of the pictures as they were, and the pictures as they are."""
    for stage in ("style_set", "captions", "negative_set"):
        run(workspace, stage)
    edit(workspace, "seed: 0", "seed: 1")
    run(workspace, "style_set")
    said = r"captions · ink was made from another data/ink/style_set .* run captions again first"
    for stage in ("negative_set", "base_generation"):
        with pytest.raises(MissingArtifactError, match=said):
            run(workspace, stage)
    run(workspace, "captions")
    said = "negative_set · ink was made from another data/ink/"
    with pytest.raises(MissingArtifactError, match=said):
        run(workspace, "training", variant="nsync")
    run(workspace, "negative_set")
    assert run(workspace, "training", variant="nsync").is_new


def test_what_was_copied_into_anothers_place_is_not_taken_for_it(
    fakes: Fakes, workspace: Workspace
) -> None:
    make_all(workspace)
    for kind in (workspace.model, workspace.samples):
        shutil.rmtree(kind("ink", "lora", 0))
        shutil.copytree(kind("ink", "nsync", 0), kind("ink", "lora", 0))
    said = r"ink/lora/0 holds another artefact, {} · ink · nsync · 0, and .* · lora · 0: run {} "
    with pytest.raises(MissingArtifactError, match=said.format("training", "training")):
        run(workspace, "generation", variant="lora")
    with pytest.raises(MissingArtifactError, match=said.format("generation", "generation")):
        run(workspace, "evaluation", force=True)
    assert run(workspace, "training", variant="lora").is_new
    assert run(workspace, "generation", variant="lora").is_new
    assert not run(workspace, "evaluation").is_new


def test_a_report_needs_no_choices(fakes: Fakes, workspace: Workspace) -> None:
    make_all(workspace)
    assert not workspace.choices("ink").exists()
    assert not run(workspace, "report").is_new
    workspace.choices("ink").mkdir(parents=True)
    assert not run(workspace, "report").is_new  # an empty folder is as none
    (workspace.choices("ink") / "one.json").write_text("{}")
    assert run(workspace, "report").is_new


def make_all(workspace: Workspace, seeds: tuple[int, ...] = (0,)) -> None:
    for stage in ("style_set", "captions", "negative_set", "base_generation"):
        run(workspace, stage)
    for variant in ("lora", "nsync"):
        for seed in seeds:
            for stage in ("training", "generation"):
                run(workspace, stage, variant=variant, training_seed=seed)
    for stage in ("evaluation", "report"):
        run(workspace, stage)


def test_leftovers_are_removed_only_once_the_artefact_is_in_its_place(
    fakes: Fakes, workspace: Workspace
) -> None:
    leftover = workspace.scratch("training")
    leftover.mkdir(parents=True)
    fakes.leftovers = (leftover,)
    fakes.meanwhile = lambda _: edit(workspace, "seed: 0", "seed: 1")
    with pytest.raises(InputsChangedError):
        run(workspace)
    assert leftover.exists()
    fakes.meanwhile = None
    run(workspace)
    assert not leftover.exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_in_an_artefacts_place_is_told_before_anything_runs(
    fakes: Fakes, workspace: Workspace, tmp_path: Path, kind: str
) -> None:
    place = workspace.style_set("ink")
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not a folder: move it away"):
        run(workspace)
    assert fakes.ran == []
    assert place.is_symlink() or place.read_text() == "mine"


def test_an_earlier_artefact_comes_back_when_its_settings_do(
    fakes: Fakes, workspace: Workspace
) -> None:
    run(workspace)
    run(workspace, "captions")
    first = content(workspace.captions("ink"))
    edit(workspace, "base_model: {device: cpu}", "base_model: {device: cpu, resolution: 64}")
    run(workspace, "captions")
    assert content(workspace.captions("ink")) != first
    edit(workspace, ", resolution: 64", "")
    outcome = run(workspace, "captions")
    assert not outcome.is_new
    assert content(workspace.captions("ink")) == first
    assert fakes.ran == ["style_set-ink", "captions-ink", "captions-ink"]


def test_so_many_earlier_artefacts_are_kept_and_the_oldest_go(
    fakes: Fakes, workspace: Workspace
) -> None:
    """Five in turn: the last is in its place, three before it are kept, the first is gone."""
    run(workspace)
    for number in range(5):
        captioning = f"\ncaptioning: {{style_words: [a{number}]}}"
        text = workspace.params_file.read_text().partition("\ncaptioning:")[0].rstrip()
        workspace.params_file.write_text(text + captioning + "\n")
        run(workspace, "captions")
        time.sleep(0.02)
    kept = workspace.state / "earlier" / "captions-ink"
    earlier = [read_made(folder) for folder in kept.iterdir()]
    words = [made.settings["captioning"]["style_words"] for made in earlier if made is not None]
    assert sorted(words) == [["a1"], ["a2"], ["a3"]]


def test_a_damaged_earlier_artefact_is_not_brought_back(fakes: Fakes, workspace: Workspace) -> None:
    run(workspace)
    run(workspace, "captions")
    first = content(workspace.captions("ink"))
    edit(workspace, "base_model: {device: cpu}", "base_model: {device: cpu, resolution: 64}")
    run(workspace, "captions")
    (kept,) = (workspace.state / "earlier" / "captions-ink").iterdir()
    (kept / "last.json").write_text("{}")
    edit(workspace, ", resolution: 64", "")
    assert run(workspace, "captions").is_new
    assert content(workspace.captions("ink")) == first


def test_an_artefact_on_another_disk_than_the_state_is_replaced_all_the_same(
    fakes: Fakes, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be renamed into ``.nsync`` there: the earlier one is not kept."""
    run(workspace)
    run(workspace, "captions")
    rename = Path.rename

    def across(path: Path, target: Path) -> Path:
        if workspace.state in Path(target).parents:
            raise OSError(18, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", across)
    edit(workspace, "base_model: {device: cpu}", "base_model: {device: cpu, resolution: 64}")
    assert run(workspace, "captions").is_new
    left = sorted(path.name for path in workspace.captions("ink").parent.iterdir())
    assert left == ["captions", "style_set"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked("train", "ink"), "'train' is not a stage; there are: style_set, captions"),
        (Asked("training", "ink"), "say which with --variant"),
        (Asked("training", "ink", "best"), "variant 'best' is not in params.yaml"),
        (Asked("generation", "ink", "base"), "base_generation"),
        (Asked("captions", "ink", "lora"), "leave --variant out"),
        (Asked("captions", "oil"), "style 'oil' is not in params.yaml"),
        (
            Asked("captions", "ink", training_seed=0),
            "not once a training: leave --training-seed out",
        ),
        (Asked("training", "ink", "lora", 4), r"training seed 4 is not in training_seeds .*: 0"),
        (Asked("training", "ink", "gentle", of_ablation=True), "variant 'gentle' is not in"),
    ],
)
def test_what_is_not_there_is_named(workspace: Workspace, asked: Asked, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        run_stage(workspace, asked)


def test_another_recipe_than_dvc_yaml_has_is_refused(fakes: Fakes, workspace: Workspace) -> None:
    with pytest.raises(ParamsError, match=r"expects recipe 99 of style_set.*`nsync sync`"):
        run(workspace, recipe=99)
    assert run(workspace, recipe=STAGES["style_set"].recipe).is_new


def test_under_dvc_a_stage_looks_at_dvc_yaml_first(
    fakes: Fakes, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_run, "die_with_parent", lambda: None)  # it would end the tests
    monkeypatch.setenv(UNDER_DVC, "style_set")
    sync_dvc_file(workspace)
    edit(workspace, "training_seeds: [0]\n", "training_seeds: [0, 1]\n")
    with pytest.raises(ParamsError, match=r"dvc\.yaml is not what .* ask for: `nsync sync`"):
        run(workspace)
    assert fakes.ran == []
    sync_dvc_file(workspace)
    assert run(workspace).is_new


def test_a_second_writer_is_refused_and_told_who_the_first_is(
    fakes: Fakes, workspace: Workspace
) -> None:
    def second(context: object) -> None:
        with pytest.raises(WorkspaceBusyError, match=f"by process {os.getpid()}:"):
            run(workspace)

    fakes.meanwhile = second
    assert run(workspace).is_new
    lock = workspace.lock("style_set-ink")
    with sole_writer(lock, "x"), pytest.raises(WorkspaceBusyError, match="data/ink/style_set"):
        run(workspace)


def test_of_several_that_train_together_the_others_only_compute(
    fakes: Fakes, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_all(workspace)
    before = content(workspace.root)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    seen: list[Any] = []
    fakes.meanwhile = seen.append
    assert run_stage(workspace, Asked("training", "ink", "lora", force=True)) is None
    (context,) = seen
    assert context.workspace == workspace
    assert not context.folder.exists()
    assert content(workspace.root) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_clear_message_and_the_artefact_stays(
    fakes: Fakes, workspace: Workspace
) -> None:
    """``/dev/full`` answers every write as a full disk does."""
    run(workspace)
    before = content(workspace.root / "data")

    def write(context: object) -> None:
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
            full.write(b"x")

    fakes.meanwhile = write
    with pytest.raises(UserError, match=f"The disk is full: {workspace.root} has"):
        run(workspace, force=True)
    assert content(workspace.root / "data") == before


def test_a_disk_that_is_full_elsewhere_is_not_said_to_be_this_one(tmp_path: Path) -> None:
    def send() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ElsewhereError("the remote: No space left on device") from error

    with pytest.raises(ElsewhereError, match=r"^the remote: "), disk_full_explained(tmp_path):
        send()


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_full_explained(tmp_path):
        (tmp_path / "nothing").read_bytes()


def test_a_checkout_is_worked_on_by_its_own_engine(workspace: Workspace) -> None:
    require_own_engine(workspace)  # it holds none
    require_own_engine(Workspace(REPOSITORY))
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(
        REPOSITORY / "nsync_pipeline", workspace.root / "nsync_pipeline", ignore=ignored
    )
    with pytest.raises(UserError, match="holds an engine of its own, and the one that runs is"):
        run(workspace)
    done = subprocess.run(
        [sys.executable, "-m", "nsync_pipeline.cli", "run", "captions", "--style", "ink"],
        cwd=workspace.root, env={**os.environ, "PYTHONPATH": str(workspace.root)}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert "run style_set first" in done.stderr  # its own one works


def test_a_killed_stage_leaves_the_earlier_artefact_and_can_be_run_again(
    fake: FakeWorkspace,
) -> None:
    assert fake.nsync(*RUN).returncode == 0
    before = content(fake.root / "data")
    fake.edit_params("seed: 0", "seed: 1")
    partial = fake.root / "data" / "ink" / ".style_set.partial" / "first.json"
    process = _started(fake, partial)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    assert content(fake.workspace.style_set("ink")) == {
        name.removeprefix("ink/style_set/"): bytes_ for name, bytes_ in before.items()
    }
    assert fake.nsync(*RUN).returncode == 0
    assert fake.ran() == ["style_set-ink"] * 2
    assert not partial.exists()


def test_a_second_process_on_one_artefact_is_refused(fake: FakeWorkspace) -> None:
    partial = fake.root / "data" / "ink" / ".style_set.partial" / "first.json"
    process = _started(fake, partial)
    try:
        done = fake.nsync(*RUN)
        assert done.returncode == 2
        assert f"is being written by process {process.pid}:" in done.stderr
        assert partial.exists()
    finally:
        process.kill()
        process.wait()


def test_what_the_command_line_says_of_a_run(fake: FakeWorkspace) -> None:
    first, second = fake.nsync(*RUN), fake.nsync(*RUN)
    assert first.stdout.splitlines()[-3:] == ["style_set · ink", "  inputs: 1", "  verdict: none"]
    assert second.stdout == "style_set · ink: up to date, nothing to do\n"


def _started(fake: FakeWorkspace, until: Path) -> "subprocess.Popen[str]":
    """A run of style_set that has begun to write."""
    process = fake.start(*RUN, FAKE_SLOW="style_set")
    deadline = time.monotonic() + 60
    while not until.exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_kill_between_the_two_moves_loses_nothing(fakes: Fakes, workspace: Workspace) -> None:
    """What was there had been moved aside, and the new had not come yet."""
    made = run(workspace).made
    place = workspace.style_set("ink")
    place.rename(place.with_name(f".{place.name}.replaced"))
    again = run(workspace)
    assert (again.is_new, again.made) == (False, made)
    assert fakes.ran == ["style_set-ink"]


def test_what_killed_runs_left_is_gone_where_nothing_is_made_anew(
    fakes: Fakes, workspace: Workspace
) -> None:
    """As where a setting was changed back after the kill."""
    run(workspace)
    place = workspace.style_set("ink")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = (
        place.with_name(f".{place.name}.partial"), place.with_name(f".{place.name}.replaced"),
        workspace.state / "features" / f".0a.npy.{ended.pid}.partial",
    )  # fmt: skip
    for folder in left:
        (folder / "images").mkdir(parents=True)
    assert not run(workspace).is_new
    assert not [folder for folder in left if folder.exists()]


def test_an_artefact_is_on_the_disk_before_it_takes_its_place(
    fakes: Fakes, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, synced = workspace.style_set("ink"), set()

    def fsync(descriptor: int) -> None:
        if not place.exists():
            synced.add(Path(f"/proc/self/fd/{descriptor}").resolve().name)

    monkeypatch.setattr(os, "fsync", fsync)
    run(workspace)
    assert {path.name for path in place.rglob("*")} <= synced
