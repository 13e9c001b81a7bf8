"""Base and variants side by side: a column each, from the same noise, in one picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nsync_pipeline.adaptation.saved_steps import ChosenStep
from nsync_pipeline.errors import MissingArtifactError, ParamsError, UserError
from nsync_pipeline.generate import compare as compare_models
from nsync_pipeline.generate.compare import ComparedModels, compare
from nsync_pipeline.generate.model import drawing_model, training_with
from nsync_pipeline.generate.pictures import generate
from nsync_pipeline.generate.prompts import AskedPrompt
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.sheets import fitted, labelled_grid
from nsync_pipeline.workspace import BASE, LORA_FILE, Workspace, step_folder
from tests.support.drawing_workspace import STYLE, drawing_params, save_random_lora

PROMPTS = [AskedPrompt("a tree", (1, 2)), AskedPrompt("a fish", (3,))]


@pytest.fixture
def params(tiny_base: Path) -> Params:
    rules = {"lora": "none", "nsync": "orthogonal", "unmade": "orthogonal"}
    variants = {name: {"update_rule": rule} for name, rule in rules.items()}
    return drawing_params(tiny_base, variants=variants)


@pytest.fixture
def workspace(tmp_path: Path, params: Params) -> Workspace:
    workspace = Workspace(tmp_path / "workspace")
    for name in ("lora", "nsync"):
        save_random_lora(workspace.model(STYLE, name, 0) / LORA_FILE, params, dora=name == "lora")
    return workspace


def compared(workspace: Workspace, params: Params, file: Path, **how: Any) -> ComparedModels:
    return compare(workspace, params, STYLE, how.pop("prompts", PROMPTS), file, **how)


def test_steps_that_were_saved_stand_side_by_side(
    workspace: Workspace, params: Params, tmp_path: Path
) -> None:
    model = workspace.model(STYLE, "nsync", 0)
    place = step_folder(model, 50)
    save_random_lora(place / LORA_FILE, params, dora=True)  # another than the model's own
    columns = ["nsync@50", "nsync"]
    made = compared(workspace, params, tmp_path / "steps.png", variants=columns)
    assert made.columns == ("nsync@50", "nsync")
    at_fifty, last = (drawing_model(workspace, params, STYLE, name) for name in columns)
    assert (at_fifty.place, last.place) == (place, model)
    style = params.style(STYLE).model_copy(update={"use_steps": {"nsync-0": ChosenStep(step=50)}})
    chosen = params.model_copy(update={"styles": {STYLE: style}})
    assert drawing_model(workspace, chosen, STYLE, "nsync").place == place
    digest = at_fifty.weights_sha256()
    assert training_with(workspace, params, STYLE, "nsync@50", digest) == 0
    assert training_with(workspace, params, STYLE, "nsync", digest) is None
    with pytest.raises(MissingArtifactError, match="no weights of step 60; there are those of: 50"):
        drawing_model(workspace, params, STYLE, "nsync@60")
    with pytest.raises(UserError, match="behind the @ a step is needed, such as nsync@50"):
        drawing_model(workspace, params, STYLE, "nsync@last")


def test_every_model_draws_what_it_draws_alone(
    workspace: Workspace, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell by cell: nothing of one variant is left on the base when the next one draws."""
    grids: list[Any] = []
    draw_grid = labelled_grid

    def kept(title: str, headings: Any, rows: Any) -> Image.Image:
        grids.append((tuple(headings), rows))
        return draw_grid(title, headings, rows)

    monkeypatch.setattr(compare_models, "labelled_grid", kept)
    reports: list[int] = []
    made = compared(
        workspace, params, tmp_path / "out" / "ink.png",
        progress=lambda what, done, total: reports.append(done),
    )  # fmt: skip
    assert (made.columns, made.rows) == ((BASE, "lora", "nsync"), 3)
    assert reports[-1] == 9
    headings, rows = grids[0]
    assert headings == made.columns
    assert [row.label for row in rows] == [
        "a tree · seed 1", "a tree · seed 2", "a fish · seed 3",
    ]  # fmt: skip
    for column, name in enumerate(headings):
        model = drawing_model(workspace, params, STYLE, name)
        alone = generate(params, model, PROMPTS, tmp_path / name)
        for row, file in zip(rows, alone.files, strict=True):
            with Image.open(file) as image:
                difference = np.asarray(image).astype(int) - np.asarray(row.pictures[column])
            assert np.abs(difference).max() <= 1, (name, row.label)
    with Image.open(made.file) as grid:
        array = np.asarray(grid)
    shown = np.asarray(fitted(rows[2].pictures[2]))
    assert array.shape[1] > 3 * shown.shape[1]


def test_columns_are_those_asked_for(workspace: Workspace, params: Params, tmp_path: Path) -> None:
    made = compared(workspace, params, tmp_path / "two.png", variants=["nsync", "lora"])
    assert made.columns == ("nsync", "lora")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"variants": ["base", "unmade"]}, MissingArtifactError, "stage of 'unmade' on 'ink'"),
        ({"variants": ["base", "x"]}, ParamsError, "variant 'x' is not in params"),
        ({"prompts": []}, UserError, "1 to 64 rows"),
        ({"prompts": [AskedPrompt("a", tuple(range(65)))]}, UserError, "not 65"),
    ],
)
def test_what_cannot_be_compared_is_explained(
    workspace: Workspace,
    params: Params,
    tmp_path: Path,
    how: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        compared(workspace, params, tmp_path / "out.png", **how)
    assert not (tmp_path / "out.png").exists()


def test_nothing_trained_is_said_before_anything_is_drawn(params: Params, tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match="no variant of 'ink' is trained yet"):
        compared(Workspace(tmp_path), params, tmp_path / "out.png")


def test_nothing_is_overwritten(workspace: Workspace, params: Params, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already"):
        compared(workspace, params, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == b"mine"
