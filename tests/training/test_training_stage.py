"""The training stage: what it writes, what it refuses, and that killing it changes nothing."""

import csv
import io
import json
import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nsync_pipeline.adaptation.lora_file import load_lora, read_lora_file
from nsync_pipeline.errors import CaptionError, MissingArtifactError, TrainingError
from nsync_pipeline.families.config import MemoryConfig
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    NEGATIVE_SET,
    STYLE_SET,
    read_manifest,
    write_manifest,
)
from nsync_pipeline.stage import StageContext
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.training.live import peak_memory
from nsync_pipeline.training.stage import run
from nsync_pipeline.workspace import LORA_FILE, MANIFEST_FILE, Workspace
from tests.support import training_process
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import folder_bytes
from tests.support.kill_training import killer
from tests.support.tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style

FILES = [LORA_FILE, f"{STYLE}_nsync.safetensors", "history.csv", "training.json"]
TRAINING = {
    "steps": 6,
    "batch_size": 2,
    "checkpoint_every": 2,
    "lora": {"rank": 2, "alpha": 4.0},
}


@pytest.fixture(scope="module")
def revision(tiny_base: Path) -> str:
    return tiny_family(tiny_base).revision


@pytest.fixture
def workspace(tmp_path: Path, revision: str) -> Workspace:
    workspace = Workspace(tmp_path / "workspace")
    write_tiny_style(workspace, revision)
    return workspace


def context(workspace: Workspace, params: Params, **changes: Any) -> StageContext[TrainingSettings]:
    return stage_context(TrainingSettings, workspace, params, STYLE, "nsync", **changes)


def contents(workspace: Workspace) -> dict[str, bytes]:
    return folder_bytes(workspace.model(STYLE, "nsync", 0))


def test_it_writes_a_lora_a_history_and_a_summary(workspace: Workspace, tiny_base: Path) -> None:
    params = tiny_params(tiny_base, TRAINING)
    steps: list[tuple[str, int, int]] = []
    result = run(context(workspace, params, progress=lambda *now: steps.append(now)))
    written = contents(workspace)
    assert sorted(written) == sorted(FILES)

    header, _ = read_lora_file(workspace.model(STYLE, "nsync", 0) / LORA_FILE)
    assert header.origin["update_rule"] == "orthogonal_anchor"
    assert header.origin["placeholder"] == "sks"
    family = tiny_family(tiny_base)
    assert header.origin["base_revision"] == family.revision
    load_lora(family, workspace.model(STYLE, "nsync", 0) / LORA_FILE)

    rows = list(csv.DictReader(io.StringIO(written["history.csv"].decode())))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert all(row["loss_anchor"] for row in rows)

    summary = json.loads(written["training.json"])
    assert written["training.json"].decode() == json.dumps(summary, indent=2, sort_keys=True) + "\n"
    assert (summary["pictures"], summary["test_pictures"], summary["negatives"]) == (5, 2, 5)
    assert list(summary["held_out_losses"]) == ["0", "2", "4", "6"]
    lora = summary["settings"]["lora"]
    assert (lora["rank"], lora["alpha"], lora["targets"]) == (2, 4.0, None)

    assert result.figures["steps"] == 6
    assert result.figures["held_out_loss"] == summary["held_out_losses"]["6"]
    assert result.figures["mean_share_removed"] == summary["mean_share_removed"]
    with Image.open(io.BytesIO(result.previews[0].jpeg)) as picture:
        assert picture.format == "JPEG"
    assert len(result.previews[0].jpeg) < 100_000

    assert [step for what, step, total in steps if what == "training"] == [1, 2, 3, 4, 5, 6]


def test_nothing_of_the_machine_is_in_the_result(
    workspace: Workspace, tiny_base: Path, tmp_path: Path
) -> None:
    """Two workspaces: the same bytes, and nowhere the workspace's path."""
    params = tiny_params(tiny_base, TRAINING | {"steps": 2})
    other = Workspace(tmp_path / "elsewhere")
    shutil.copytree(workspace.root, other.root)
    run(context(workspace, params))
    run(context(other, params))
    assert contents(workspace) == contents(other)
    assert not any(str(workspace.root).encode() in file for file in contents(workspace).values())


def test_plain_fine_tuning_needs_no_negatives(workspace: Workspace, tiny_base: Path) -> None:
    shutil.rmtree(workspace.negative_set(STYLE))
    run(context(workspace, tiny_params(tiny_base, TRAINING | {"steps": 1}, rule="none")))
    rows = list(csv.DictReader(io.StringIO(contents(workspace)["history.csv"].decode())))
    assert rows[0]["loss_negative"] == rows[0]["cosine_negative"] == ""


def test_one_training_picture_and_no_test_picture_is_enough(
    tmp_path: Path, tiny_base: Path, revision: str
) -> None:
    workspace = Workspace(tmp_path)
    write_tiny_style(workspace, revision, train=1, test=0, negatives=2)
    result = run(context(workspace, tiny_params(tiny_base, TRAINING | {"steps": 1})))
    assert "held_out_loss" not in result.figures
    assert result.figures["pictures"] == 1


class Training:
    """The stage run in processes of its own, one after the other, on one workspace."""

    def __init__(self, workspace: Workspace, params: Params) -> None:
        self.processes = multiprocessing.get_context("forkserver")
        # Imported once; what it cannot import there, each process imports itself.
        self.processes.set_forkserver_preload(["nsync_pipeline.training.stage"])
        self.workspace, self.params = workspace, params

    def run(self, dies: str | None = None, kill_after: int | None = None) -> tuple[int, list[int]]:
        """Exit code, and the steps it said were done; SIGKILL once ``kill_after`` is among them."""
        receiver, sender = self.processes.Pipe(duplex=False)
        process = self.processes.Process(
            target=training_process.train_in_process,
            args=(self.workspace.root, self.params, STYLE, "nsync", dies, sender),
        )
        process.start()
        sender.close()
        steps: list[int] = []
        while True:
            try:
                steps.append(receiver.recv())
            except EOFError:
                break
            if steps[-1] == kill_after:
                process.kill()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, steps


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    workspace: Workspace, tiny_base: Path, tmp_path: Path
) -> None:
    """Real processes, real SIGKILL: between steps, in a checkpoint, and in the result."""
    params = tiny_params(tiny_base, TRAINING | {"steps": 12})
    unbroken = Workspace(tmp_path / "unbroken")
    shutil.copytree(workspace.root, unbroken.root)
    code, steps = Training(unbroken, params).run()
    assert code == 0
    assert steps == list(range(1, 13))

    broken = Training(workspace, params)
    scratch = workspace.scratch("training", STYLE, "nsync", "0")
    code, steps = broken.run(kill_after=5)
    assert code == -signal.SIGKILL
    newest = max(scratch.glob("step_*")).name
    assert newest >= "step_00000002"  # that of step 4 may not have been whole yet

    code, steps = broken.run(dies=training_process.IN_A_CHECKPOINT)
    assert code == -signal.SIGKILL
    assert list(scratch.glob(".*.partial"))
    assert max(scratch.glob("step_*")).name > newest

    code, steps = broken.run(dies=training_process.IN_THE_RESULT)
    assert code == -signal.SIGKILL
    assert sorted(contents(workspace)) == sorted(FILES[:2])

    damaged = max(scratch.glob("step_*"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    code, steps = broken.run()
    assert code == 0
    assert steps == list(range(1, 13))
    assert contents(workspace) == contents(unbroken)
    assert not scratch.exists()


def stopped_at(step: int) -> Any:
    """A progress that ends the training when ``step`` is done, as Ctrl-C does."""

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("training", step):
            raise KeyboardInterrupt

    return stop


def scratch_of(workspace: Workspace) -> Path:
    return workspace.scratch("training", STYLE, "nsync", "0")


def copied(workspace: Workspace, root: Path) -> Workspace:
    shutil.copytree(workspace.root, root)
    return Workspace(root)


def test_checkpoints_of_other_settings_are_kept_aside_and_the_setting_is_named(
    workspace: Workspace, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped half way, then the learning rate is changed: as if it had never begun."""
    fresh = copied(workspace, tmp_path / "fresh")
    with pytest.raises(KeyboardInterrupt):
        run(context(workspace, tiny_params(tiny_base, TRAINING), progress=stopped_at(5)))
    kept = folder_bytes(scratch_of(workspace))
    assert kept
    changed = tiny_params(tiny_base, TRAINING | {"learning_rate": 0.01})
    result = run(context(workspace, changed))
    run(context(fresh, changed))
    assert contents(workspace) == contents(fresh)
    aside = scratch_of(workspace).with_name("0.set-aside")
    assert folder_bytes(aside) == kept
    assert aside not in result.leftovers
    assert "training.learning_rate was 0.001 and is 0.01" in caplog.text


def test_checkpoints_that_were_set_aside_come_back_with_their_settings(
    workspace: Workspace, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong edit is noticed and taken back: the training goes on where it was."""
    unbroken = copied(workspace, tmp_path / "unbroken")
    params = tiny_params(tiny_base, TRAINING)
    wrong = tiny_params(tiny_base, TRAINING | {"batch_size": 1})
    caplog.set_level("INFO", "nsync_pipeline")
    for settings, step in ((params, 5), (wrong, 3)):
        with pytest.raises(KeyboardInterrupt):
            run(context(workspace, settings, progress=stopped_at(step)))
    run(context(workspace, params))
    run(context(unbroken, params))
    assert "training goes on from step 4 of 6" in caplog.text
    assert contents(workspace) == contents(unbroken)


def test_what_only_observes_may_change_while_a_training_is_under_way(
    workspace: Workspace, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed at step 21 with checkpoints every 20, which are 10 then; looks are switched on, too:
    it goes on from step 20, and the weights are those of an unbroken training."""
    unbroken = copied(workspace, tmp_path / "unbroken")
    steps = TRAINING | {"steps": 23, "checkpoint_every": 20}
    caplog.set_level("INFO", "nsync_pipeline")
    with pytest.raises(KeyboardInterrupt):
        run(context(workspace, tiny_params(tiny_base, steps), progress=stopped_at(21)))
    changed = steps | {
        "checkpoint_every": 10,
        "watch": {"every": 22, "prompts": 1, "steps": 1, "extractor": None},
    }
    memory = {"offload": True, "vae_slicing": True}
    params = tiny_params(tiny_base, changed)
    base = params.base_model.model_copy(update={"memory": MemoryConfig(**memory)})
    run(context(workspace, params.model_copy(update={"base_model": base})))
    assert "training goes on from step 20 of 23" in caplog.text
    assert not scratch_of(workspace).with_name("0.set-aside").exists()
    run(context(unbroken, tiny_params(tiny_base, steps)))
    for name in (LORA_FILE, "history.csv"):
        assert contents(workspace)[name] == contents(unbroken)[name]
    losses = json.loads(contents(workspace)["training.json"])["held_out_losses"]
    assert list(losses) == ["0", "20", "23"]


def test_the_stage_removes_nothing_itself_and_names_what_is_left_over(
    workspace: Workspace, tiny_base: Path
) -> None:
    """A crash between the stage's end and the artefact's move costs no training."""
    result = run(context(workspace, tiny_params(tiny_base, TRAINING)))
    assert list(scratch_of(workspace).glob("*.checkpoint"))
    assert scratch_of(workspace) in result.leftovers
    before = contents(workspace)
    run(context(workspace, tiny_params(tiny_base, TRAINING)))
    assert contents(workspace) == before


def live_tables(workspace: Workspace) -> dict[str, list[dict[str, str]]]:
    """The live tables; every line of them is whole."""
    folder = workspace.scratch("live", STYLE, "nsync", "0")
    texts = {path.stem: path.read_text() for path in folder.glob("*.csv")}
    assert all(text.endswith("\n") for text in texts.values())
    return {name: list(csv.DictReader(io.StringIO(text))) for name, text in texts.items()}


def test_what_can_be_watched_is_there_at_each_checkpoint(
    workspace: Workspace, tiny_base: Path
) -> None:
    shown: list[tuple[list[str], list[str]]] = []

    def checkpointed() -> None:
        tables = live_tables(workspace)
        history, held_out = (
            [row["step"] for row in tables[name]] for name in ("history", "held_out")
        )
        shown.append((history, held_out))

    run(context(workspace, tiny_params(tiny_base, TRAINING), checkpointed=checkpointed))
    steps = [[str(step) for step in range(1, done + 1)] for done in (0, 2, 4, 6)]
    losses = [["0"], ["0", "2"], ["0", "2", "4"], ["0", "2", "4", "6"]]
    assert shown == list(zip(steps, losses, strict=True))
    live = workspace.scratch("live", STYLE, "nsync", "0")
    assert (live / "history.csv").read_bytes() == contents(workspace)["history.csv"]
    summary = json.loads(contents(workspace)["training.json"])
    tables = live_tables(workspace)
    assert {row["step"]: float(row["loss"]) for row in tables["held_out"]} == (
        summary["held_out_losses"]
    )
    assert [row["step"] for row in tables["system"]] == ["2", "3", "4", "5", "6"]
    assert all(float(row["steps_a_second"]) > 0 for row in tables["system"])
    assert all(0 < float(row["peak_memory_gib"]) < 64 for row in tables["system"])
    for name in ("cpu_utilization_percentage", "system_memory_usage_percentage"):
        assert all(0 <= float(row[name]) <= 100 for row in tables["system"])


def test_what_was_watched_after_the_checkpoint_is_dropped_when_it_goes_on(
    workspace: Workspace, tiny_base: Path
) -> None:
    """Stopped in step 5, after the checkpoint of step 4. A row that looks to be of step 6 stands
    for one that was written and whose checkpoint was not."""
    params = tiny_params(tiny_base, TRAINING)
    with pytest.raises(KeyboardInterrupt):
        run(context(workspace, params, progress=stopped_at(5)))
    live = workspace.scratch("live", STYLE, "nsync", "0")
    (live / "run.json").write_text("{}")  # others may keep something there, too
    for name in ("history.csv", "held_out.csv", "system.csv"):
        with (live / name).open("a") as file:
            file.write("6,0.5,0.5\n")
    first: list[dict[str, list[dict[str, str]]]] = []

    def checkpointed() -> None:
        first.append(live_tables(workspace))

    run(context(workspace, params, checkpointed=checkpointed))
    assert [row["step"] for row in first[0]["history"]] == ["1", "2", "3", "4"]
    assert [row["step"] for row in first[0]["held_out"]] == ["0", "2", "4"]
    assert [row["step"] for row in first[0]["system"]] == ["2", "3", "4"]
    assert (live / "history.csv").read_bytes() == contents(workspace)["history.csv"]
    assert (live / "run.json").is_file()


def test_peak_memory_is_of_the_device_that_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with CUDA, where the training is on the CPU all the same."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 12)
    assert peak_memory(torch.device("cuda")) == 12
    assert peak_memory(torch.device("cpu")) > 10**7  # of this process: Python and torch


def change(path: Path, schema: Any, **columns: Any) -> None:
    """Set columns of the manifest's first row."""
    rows = read_manifest(path, schema)
    write_manifest(path, [rows[0] | columns, *rows[1:]], schema)


def without(path: Path, schema: Any, index: int) -> None:
    rows = read_manifest(path, schema)
    write_manifest(path, rows[:index] + rows[index + 1 :], schema)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda w: without(w.captions(STYLE) / MANIFEST_FILE, CAPTIONS, 1),
            CaptionError,
            r"no caption for 1\.png",
        ),
        (
            lambda w: change(w.captions(STYLE) / MANIFEST_FILE, CAPTIONS, caption=" "),
            CaptionError,
            r"no caption for 0\.png",
        ),
        (
            lambda w: change(w.captions(STYLE) / MANIFEST_FILE, CAPTIONS, caption="a house " * 20),
            CaptionError,
            r"45 tokens, and .* takes 30",
        ),
        (
            lambda w: without(w.negative_set(STYLE) / MANIFEST_FILE, NEGATIVE_SET, 0),
            MissingArtifactError,
            "no negative of 0000000000000000",
        ),
        (
            lambda w: change(w.style_set(STYLE) / MANIFEST_FILE, STYLE_SET, split="test"),
            MissingArtifactError,
            "negatives of 0000000000000000, not training pictures",
        ),
        (
            lambda w: change(
                w.negative_set(STYLE) / MANIFEST_FILE, NEGATIVE_SET, base_revision="sha256:other"
            ),
            MissingArtifactError,
            "drawn by another base",
        ),
        (
            lambda w: (w.style_set(STYLE) / "images" / "0000000000000002.png").unlink(),
            MissingArtifactError,
            r"0000000000000002\.png is not there",
        ),
        (
            lambda w: (w.captions(STYLE) / MANIFEST_FILE).unlink(),
            MissingArtifactError,
            "run the stage that makes it",
        ),
    ],
)
def test_what_does_not_belong_together_is_one_clear_message(
    workspace: Workspace, tiny_base: Path, spoil: Any, error: type[Exception], message: str
) -> None:
    spoil(workspace)
    with pytest.raises(error, match=message):
        run(context(workspace, tiny_params(tiny_base, TRAINING)))
    assert contents(workspace) == {}


def test_a_test_picture_among_the_training_pictures_is_refused(
    workspace: Workspace, tiny_base: Path
) -> None:
    path = workspace.style_set(STYLE) / MANIFEST_FILE
    rows = read_manifest(path, STYLE_SET)
    change(path, STYLE_SET, sha256=rows[-1]["sha256"])
    with pytest.raises(TrainingError, match=r"test pictures are among the training ones: 6\.png"):
        run(context(workspace, tiny_params(tiny_base, TRAINING)))


def test_no_training_picture_is_an_error(tmp_path: Path, tiny_base: Path, revision: str) -> None:
    workspace = Workspace(tmp_path)
    write_tiny_style(workspace, revision, train=0, test=2)
    with pytest.raises(TrainingError, match="no picture is in the training split"):
        run(context(workspace, tiny_params(tiny_base, TRAINING)))


def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """Of a training that keeps more than weights: a running estimate, an average of the weights.

    ``python -m tests.support.kill_training --kills 20`` does it for longer.
    """
    training = killer(tmp_path, seed=1)
    training.until(kills=2)
    assert training.kills == 2
    assert len(training.hashes) == 1
