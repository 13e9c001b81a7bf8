"""What is seen of a training on the way: looks, the best of them, and that they change nothing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_clip import save_tiny_clip
from tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style

from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.errors import BaseModelError, EvaluationError
from nsync_pipeline.params import Params
from nsync_pipeline.stage import SilentLog, StageContext, StageResult
from nsync_pipeline.training import looks as training_looks
from nsync_pipeline.training.film_strip import STRIP_FILE
from nsync_pipeline.training.stage import run
from nsync_pipeline.workspace import LORA_FILE, Workspace

TRAINING: dict[str, Any] = {
    "steps": 5,
    "batch_size": 2,
    "checkpoint_every": 2,
    "learning_rate": 0.01,
    "lora": {"rank": 2, "alpha": 4.0},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def revision(tiny_base: Path) -> str:
    return tiny_family(tiny_base).revision


def workspace_at(root: Path, revision: str) -> Workspace:
    workspace = Workspace(root)
    write_tiny_style(workspace, revision)
    return workspace


def params(base: Path, clip: Path, **changes: Any) -> Params:
    watch = {"every": 2, "prompts": 3, "steps": 2, "extractor": str(clip)}
    return tiny_params(base, TRAINING | {"watch": watch} | changes, rule="orthogonal")


@dataclass
class RecordingLog(SilentLog):
    """Keeps what it is told of looks."""

    figures: dict[int, dict[str, float]] = field(default_factory=dict)
    pictures: list[tuple[str, int, tuple[int, int]]] = field(default_factory=list)

    def metrics(self, values: Any, step: int | None = None) -> None:
        self.figures.setdefault(step or 0, {}).update(values)

    def picture(self, path: Path, name: str, step: int) -> None:
        with Image.open(path) as image:
            self.pictures.append((name, step, image.size))


def train(workspace: Workspace, settings: Params, **changes: Any) -> StageResult:
    return run(StageContext(workspace, settings, STYLE, "nsync", **changes))


def contents(workspace: Workspace) -> dict[str, bytes]:
    folder = workspace.model(STYLE, "nsync", 0)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def summary(workspace: Workspace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(contents(workspace)["training.json"])
    return found


def test_looks_are_shown_scored_and_kept_as_a_film_strip(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    workspace, log = workspace_at(tmp_path, revision), RecordingLog()
    result = train(workspace, params(tiny_base, clip), log=log)
    # Three pictures of 32 pixels: a grid of two columns and two rows, with gaps of 4.
    assert log.pictures == [("looks", step, (76, 76)) for step in (0, 2, 4, 5)]
    looks = summary(workspace)["looks"]
    assert list(looks) == ["2", "4", "5"]
    assert [looks[step]["pictures"] for step in looks] == [3, 3, 3]
    for step, found in looks.items():
        assert log.figures[int(step)]["look_style_margin"] == found["style_margin"]
        assert log.figures[int(step)]["look_style_margin_error"] == found["standard_error"]
    best = summary(workspace)["best_look"]
    assert looks[str(best["step"])]["style_margin"] == max(
        found["style_margin"] for found in looks.values()
    )
    # A heading, three rows of 64 pixels (32 doubled), a real column and four looks.
    with Image.open(workspace.model(STYLE, "nsync", 0) / STRIP_FILE) as strip:
        assert strip.size == (5 * 68 + 4, 3 * 68 + 4 + 25)
    assert [preview.title for preview in result.previews] == [
        "losses of ink, nsync-0", "looks of ink, nsync-0",
    ]  # fmt: skip
    assert all(len(preview.jpeg) < 100_000 for preview in result.previews)
    assert list(workspace.state.rglob("*.png")) == []


def test_looking_changes_nothing_of_the_training(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    """With dropped captions, an average of the weights, and activations taken twice."""
    changes = {"caption_dropout": 0.3, "ema_decay": 0.9, "gradient_checkpointing": True}
    watched, unwatched = (workspace_at(tmp_path / name, revision) for name in ("a", "b"))
    train(watched, params(tiny_base, clip, **changes))
    train(unwatched, params(tiny_base, clip, watch={"every": 0}, **changes))
    for name in (LORA_FILE, "history.csv"):
        assert contents(watched)[name] == contents(unwatched)[name]
    assert STRIP_FILE not in contents(unwatched)


def test_a_training_that_goes_on_keeps_the_looks_of_before(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    broken, unbroken = (workspace_at(tmp_path / name, revision) for name in ("a", "b"))
    settings = params(tiny_base, clip)

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("training", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, settings, progress=stop)
    log = RecordingLog()
    train(broken, settings, log=log)
    train(unbroken, settings)
    assert [step for _, step, _ in log.pictures] == [4, 5]
    assert contents(broken) == contents(unbroken)


def test_the_best_look_is_what_is_kept(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are made up: the look after 2 steps is the best, and the weights are of there."""
    made_up = {0: None, 2: 0.5, 4: 0.25, 5: 0.25}
    look = training_looks.Looks.__call__

    def scored(looks: training_looks.Looks, done: int) -> float | None:
        look(looks, done)
        return made_up[done]

    monkeypatch.setattr(training_looks.Looks, "__call__", scored)
    best, last = (workspace_at(tmp_path / name, revision) for name in ("a", "b"))
    train(best, params(tiny_base, clip, keep="best"))
    assert summary(best)["kept_step"] == 2
    train(last, params(tiny_base, clip))
    assert summary(last)["kept_step"] == 5
    assert contents(best)[LORA_FILE] != contents(last)[LORA_FILE]


def test_a_model_that_draws_nothing_does_not_end_the_training(
    tmp_path: Path,
    tiny_base: Path,
    clip: Path,
    revision: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*args: object) -> Any:
        raise BaseModelError("picture 00 came out of one flat colour")

    monkeypatch.setattr(training_looks, "draw_pictures", refuse)
    workspace = workspace_at(tmp_path, revision)
    train(workspace, params(tiny_base, clip))
    assert summary(workspace)["looks"] == {}
    assert STRIP_FILE not in contents(workspace)
    assert "no look after 2 steps: picture 00 came out of one flat colour" in caplog.text


def test_without_an_extractor_there_are_pictures_and_no_scores(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    workspace = workspace_at(tmp_path, revision)
    train(
        workspace,
        params(tiny_base, clip, watch={"every": 5, "prompts": 1, "steps": 2, "extractor": None}),
    )
    assert summary(workspace)["looks"] == {}
    assert summary(workspace)["best_look"] is None
    assert STRIP_FILE in contents(workspace)


def test_an_extractor_that_is_not_there_is_named_with_its_setting(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    workspace = workspace_at(tmp_path, revision)
    watch = {"every": 5, "prompts": 1, "steps": 2, "extractor": "no/such"}
    steps: list[int] = []
    with pytest.raises(EvaluationError, match=r"training\.watch\.extractor"):
        train(
            workspace,
            params(tiny_base, clip, watch=watch),
            progress=lambda what, done, total: steps.append(done) if what == "training" else None,
        )
    assert steps == []  # it is found before the first step


def test_a_look_leaves_modes_and_random_states_as_they_were(
    tiny_base: Path,
) -> None:
    family = tiny_family(tiny_base)
    family.denoiser.train()
    family.text_encoders[0].eval()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with training_looks._undisturbed(family):
        assert not family.denoiser.training
        assert not torch.is_grad_enabled()
        torch.rand(3)
    assert family.denoiser.training
    assert all(module.training for module in family.denoiser.modules())
    assert not family.text_encoders[0].training
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_of_the_kept_step_is_the_one_that_was_looked_at(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    """The saved LoRA draws the last look again, bit for bit."""
    workspace = workspace_at(tmp_path, revision)
    settings = params(tiny_base, clip)
    seen: list[bytes] = []

    class KeepsLast(SilentLog):
        def picture(self, path: Path, name: str, step: int) -> None:
            if step == 5:
                seen.extend(
                    Image.open(file).tobytes()
                    for file in sorted((path.parent / f"{step:08d}").glob("*.png"))
                )

    train(workspace, settings, log=KeepsLast())
    family = tiny_family(tiny_base)
    load_trained(family, workspace.model(STYLE, "nsync", 0))
    from nsync_pipeline.training.inputs import read_training_inputs

    inputs = read_training_inputs(workspace, STYLE, "sks", settings.variant("nsync"))
    again = training_looks.Looks(
        StageContext(workspace, settings, STYLE, "nsync"),
        family,
        settings.variant("nsync").watch,
        inputs.train,
        tmp_path / "again" / "looks",
    )
    again(5)
    drawn = sorted((tmp_path / "again" / "looks" / "00000005").glob("*.png"))
    assert [Image.open(file).tobytes() for file in drawn] == seen
    assert len(seen) == 3


def test_token_vectors_alone_are_looked_at_and_kept_by_their_score(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    """Prompts are encoded anew at each look; the training is the same as unwatched."""
    watched, unwatched = (workspace_at(tmp_path / name, revision) for name in ("a", "b"))
    changes: dict[str, Any] = {"lora": None, "textual_inversion": {"vectors": 2}}
    train(watched, params(tiny_base, clip, keep="best", **changes))
    train(unwatched, params(tiny_base, clip, watch={"every": 0}, **changes))
    assert contents(watched)["history.csv"] == contents(unwatched)["history.csv"]
    found = summary(watched)
    assert found["kept_step"] == found["best_look"]["step"]
    assert len({look["style_margin"] for look in found["looks"].values()}) == 3
