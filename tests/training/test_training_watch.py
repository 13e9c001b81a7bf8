"""What is seen of a training on the way: looks, the best of them, and that they change nothing."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nsync_pipeline.adaptation.trainables import load_trained
from nsync_pipeline.errors import BaseModelError, CaptionError, EvaluationError
from nsync_pipeline.params import Params
from nsync_pipeline.stage import StageContext, StageResult
from nsync_pipeline.training import looks
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.training.stage import run
from nsync_pipeline.workspace import LORA_FILE, STRIP_FILE, Workspace
from tests.support.contexts import stage_context
from tests.support.drawing_workspace import folder_bytes
from tests.support.tiny_clip import save_tiny_clip
from tests.support.tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style

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


def context(
    workspace: Workspace, settings: Params, **changes: Any
) -> StageContext[TrainingSettings]:
    return stage_context(TrainingSettings, workspace, settings, STYLE, "nsync", **changes)


def train(workspace: Workspace, settings: Params, **changes: Any) -> StageResult:
    return run(context(workspace, settings, **changes))


def contents(workspace: Workspace) -> dict[str, bytes]:
    return folder_bytes(workspace.model(STYLE, "nsync", 0))


def live(workspace: Workspace) -> Path:
    return workspace.scratch("live", STYLE, "nsync", "0")


def grids(folder: Path) -> dict[int, bytes]:
    return {int(path.stem): path.read_bytes() for path in sorted(folder.glob("looks/*.jpg"))}


def stopped_at(step: int) -> Any:
    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("training", step):
            raise KeyboardInterrupt

    return stop


def summary(workspace: Workspace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(contents(workspace)["training.json"])
    return found


def test_looks_are_shown_scored_and_kept_as_a_film_strip(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    workspace = workspace_at(tmp_path, revision)
    shown: list[list[int]] = []
    result = train(
        workspace,
        params(tiny_base, clip),
        checkpointed=lambda: shown.append(list(grids(live(workspace)))),
    )
    # At the looks of steps 0, 2, 4 and 5, and after each at the start or a checkpoint.
    assert shown == [seen for seen in ([0], [0, 2], [0, 2, 4], [0, 2, 4, 5]) for _ in range(2)]
    assert grids(live(workspace)) == grids(workspace.model(STYLE, "nsync", 0))
    for jpeg in grids(live(workspace)).values():
        assert len(jpeg) < 100_000
        # Three pictures of 32 pixels: a grid of two columns and two rows, with gaps of 4.
        with Image.open(io.BytesIO(jpeg)) as grid:
            assert (grid.format, grid.size) == ("JPEG", (76, 76))
    looks = summary(workspace)["looks"]
    assert list(looks) == ["2", "4", "5"]
    rows = list(csv.DictReader((live(workspace) / "looks.csv").open()))
    assert rows == [
        {"step": step} | {name: repr(value) for name, value in sorted(found.items())}
        for step, found in looks.items()
    ]
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
    assert live(workspace) / "looks" in result.leftovers
    assert workspace.scratch("looks", STYLE, "nsync", "0") in result.leftovers


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


def test_own_prompts_are_drawn_beside_the_captions_and_change_nothing_else(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    """Not even what is kept by its score."""
    watch = {"every": 2, "prompts": 3, "steps": 2, "extractor": str(clip)}
    own = {"own_prompts": ["a cat", "a dog on a hill", "a cat"]}
    settings = [
        params(tiny_base, clip, watch=watch | more, keep="best", steps=2) for more in ({}, own)
    ]
    identities = [context(Workspace(tmp_path / "i"), one).settings.identity() for one in settings]
    assert identities[0] == identities[1]
    plain, asked = (workspace_at(tmp_path / name, revision) for name in ("a", "b"))
    for workspace, one in zip((plain, asked), settings, strict=True):
        train(workspace, one)
    assert contents(plain)[LORA_FILE] == contents(asked)[LORA_FILE]
    assert summary(plain)["looks"] == summary(asked)["looks"]
    said = json.loads(contents(asked)["looks/prompts.json"])
    assert [entry["own"] for entry in said] == [False] * 3 + [True] * 2
    assert said[3]["prompt"] == "a cat in the style of sks"
    assert said[:3] == json.loads(contents(plain)["looks/prompts.json"])
    # Five pictures of 32 pixels: three columns, two rows; five rows of the strip, two without real.
    with Image.open(io.BytesIO(contents(asked)["looks/00000002.jpg"])) as grid:
        assert grid.size == (3 * 36 + 4, 2 * 36 + 4)
    with Image.open(asked.model(STYLE, "nsync", 0) / STRIP_FILE) as strip:
        assert strip.size == (3 * 68 + 4, 5 * 68 + 4 + 25)


def test_an_own_prompt_that_is_too_long_is_refused_before_the_training(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    watch = {"every": 2, "extractor": None, "own_prompts": ["a house " * 20]}
    workspace = workspace_at(tmp_path, revision)
    with pytest.raises(CaptionError, match=r"own_prompts, 'a house .* has 45 tokens, and .* 30"):
        train(workspace, params(tiny_base, clip, watch=watch))


def test_a_training_that_goes_on_keeps_the_looks_of_before(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    broken, unbroken = (workspace_at(tmp_path / name, revision) for name in ("a", "b"))
    settings = params(tiny_base, clip)
    with pytest.raises(KeyboardInterrupt):
        train(broken, settings, progress=stopped_at(4))
    (live(broken) / "looks" / "00000005.jpg").write_bytes(b"of a step that is taken again")
    shown: list[list[int]] = []
    train(broken, settings, checkpointed=lambda: shown.append(list(grids(live(broken)))))
    train(unbroken, settings)
    assert shown == [[0, 2], [0, 2, 4], [0, 2, 4], *[[0, 2, 4, 5]] * 2]
    assert contents(broken) == contents(unbroken)
    for name in ("looks.csv", "held_out.csv", "history.csv"):
        assert (live(broken) / name).read_bytes() == (live(unbroken) / name).read_bytes()


def test_looks_of_before_are_kept_where_only_their_cadence_changes(
    tmp_path: Path,
    tiny_base: Path,
    clip: Path,
    revision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even with ``keep`` ``best``, where the training begins again: the weights are the same."""
    workspace = workspace_at(tmp_path, revision)
    with pytest.raises(KeyboardInterrupt):
        train(workspace, params(tiny_base, clip, keep="best"), progress=stopped_at(4))
    draw, drawn = looks.Looks._draw, []

    def recorded(sampler: looks.Looks, done: int) -> bool:
        drawn.append(done)
        return draw(sampler, done)

    monkeypatch.setattr(looks.Looks, "_draw", recorded)
    watch = {"every": 1, "prompts": 3, "steps": 2, "extractor": str(clip)}
    train(workspace, params(tiny_base, clip, keep="best", watch=watch))
    assert drawn == [1, 3, 4, 5]
    assert list(grids(workspace.model(STYLE, "nsync", 0))) == [0, 1, 2, 3, 4, 5]


def test_the_best_look_is_what_is_kept(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are made up: the look after 2 steps is the best, and the weights are of there."""
    made_up = {0: None, 2: 0.5, 4: 0.25, 5: 0.25}
    look = looks.Looks.__call__

    def scored(sampler: looks.Looks, done: int) -> float | None:
        look(sampler, done)
        return made_up[done]

    monkeypatch.setattr(looks.Looks, "__call__", scored)
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

    monkeypatch.setattr(looks, "draw_pictures", refuse)
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
    with looks._undisturbed(family):
        assert not family.denoiser.training
        assert not torch.is_grad_enabled()
        torch.rand(3)
    assert family.denoiser.training
    assert all(module.training for module in family.denoiser.modules())
    assert not family.text_encoders[0].training
    assert torch.equal(torch.get_rng_state(), before)


def pictures(folder: Path) -> list[bytes]:
    """Those of the look after 5 steps."""
    return [Image.open(file).tobytes() for file in sorted(folder.glob("*/00000005/*.png"))]


def test_the_model_of_the_kept_step_is_the_one_that_was_looked_at(
    tmp_path: Path, tiny_base: Path, clip: Path, revision: str
) -> None:
    """The saved LoRA draws the last look again, bit for bit."""
    workspace = workspace_at(tmp_path, revision)
    settings = params(tiny_base, clip)
    train(workspace, settings)
    seen = pictures(workspace.scratch("looks", STYLE, "nsync", "0"))
    family = tiny_family(tiny_base)
    load_trained(family, workspace.model(STYLE, "nsync", 0))
    from nsync_pipeline.training.inputs import read_training_inputs

    inputs = read_training_inputs(workspace, STYLE, "sks", settings.variant("nsync"), "painting")
    now = replace(context(Workspace(tmp_path / "other"), settings), workspace=workspace)
    again = looks.Looks(now, family, inputs.train, tmp_path / "again", "these weights", "sks")
    again(5)
    assert pictures(tmp_path / "again") == seen
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
