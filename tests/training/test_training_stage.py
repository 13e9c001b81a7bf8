"""The training stage: what it writes, what it refuses, and that killing it changes nothing."""

import csv
import io
import json
import multiprocessing
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import training_process
from kill_training import killer
from PIL import Image
from tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style

from nsync_pipeline.adaptation.lora_file import load_lora, read_lora_file
from nsync_pipeline.errors import CaptionError, MissingArtifactError, TrainingError
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    NEGATIVE_SET,
    STYLE_SET,
    read_manifest,
    write_manifest,
)
from nsync_pipeline.stage import SilentLog, StageContext
from nsync_pipeline.training.stage import run
from nsync_pipeline.workspace import LORA_FILE, MANIFEST_FILE, Workspace

FILES = [LORA_FILE, "history.csv", "training.json"]
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


def context(workspace: Workspace, params: Params, **changes: Any) -> StageContext:
    return StageContext(workspace, params, STYLE, "nsync", **changes)


def contents(workspace: Workspace) -> dict[str, bytes]:
    folder = workspace.model(STYLE, "nsync", 0)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@dataclass
class RecordingLog(SilentLog):
    """Keeps what it is told."""

    figures: list[tuple[int | None, dict[str, float]]] = field(default_factory=list)
    datasets: list[tuple[str, str]] = field(default_factory=list)

    def metrics(self, values: Any, step: int | None = None) -> None:
        self.figures.append((step, dict(values)))

    def dataset(self, name: str, path: Path, context: str) -> None:
        assert path.is_dir()
        self.datasets.append((name, context))


def test_it_writes_a_lora_a_history_and_a_summary(workspace: Workspace, tiny_base: Path) -> None:
    params = tiny_params(tiny_base, TRAINING)
    log = RecordingLog()
    steps: list[tuple[str, int, int]] = []
    result = run(context(workspace, params, log=log, progress=lambda *now: steps.append(now)))
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
    logged = {step: values for step, values in log.figures if "loss_positive" in values}
    assert logged[6]["loss_positive"] == float(rows[-1]["loss_positive"])
    assert log.datasets == [
        ("style_set", "training"), ("captions", "captions"), ("negative_set", "negatives"),
    ]  # fmt: skip
    assert not workspace.scratch("training", STYLE, "nsync", "0").exists()


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
    assert newest >= "step_00000004"

    code, steps = broken.run(dies=training_process.IN_A_CHECKPOINT)
    assert code == -signal.SIGKILL
    assert (scratch / "checkpoint.partial").is_file()
    assert max(scratch.glob("step_*")).name > newest

    code, steps = broken.run(dies=training_process.IN_THE_RESULT)
    assert code == -signal.SIGKILL
    assert not workspace.model(STYLE, "nsync", 0).exists()

    damaged = max(scratch.glob("step_*"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    code, steps = broken.run()
    assert code == 0
    assert steps == list(range(1, 13))
    assert contents(workspace) == contents(unbroken)
    assert not scratch.exists()


def test_what_other_settings_left_behind_is_not_used(
    workspace: Workspace, tiny_base: Path, tmp_path: Path
) -> None:
    """Stopped half way, then the learning rate is changed: as if it had never begun."""
    fresh = Workspace(tmp_path / "fresh")
    shutil.copytree(workspace.root, fresh.root)

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("training", 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(context(workspace, tiny_params(tiny_base, TRAINING), progress=stop))
    assert list(workspace.scratch("training", STYLE, "nsync", "0").iterdir())
    changed = tiny_params(tiny_base, TRAINING | {"learning_rate": 0.01})
    run(context(workspace, changed))
    run(context(fresh, changed))
    assert contents(workspace) == contents(fresh)


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
    assert not workspace.model(STYLE, "nsync", 0).exists()


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

    ``python tests/kill_training.py --kills 20`` does it for longer.
    """
    training = killer(tmp_path, seed=1)
    training.until(kills=2)
    assert training.kills == 2
    assert len(training.hashes) == 1
