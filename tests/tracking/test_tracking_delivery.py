"""A style's whole story in a real MLflow store: who finds which figures where."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nsync_pipeline.files import dvc_digest
from nsync_pipeline.tracking.destination import resolved_uri
from nsync_pipeline.tracking.hand_over import hand_over
from nsync_pipeline.tracking.run_log import RunIdentity, open_run_log
from nsync_pipeline.tracking.spool import spool_files
from nsync_pipeline.workspace import LORA_FILE, Workspace

RULES = {"lora": "none", "nsync": "orthogonal"}
PARAMS = {"seed": 0, "training": {"steps": 3, "lora": {"rank": 8}}}
MARGINS = {"base": 0.0, "lora": 0.25, "nsync": 0.5}


def identity(stage: str, variant: str | None = None, inputs: str = "same") -> RunIdentity:
    rule = RULES.get(variant or "")
    seed = 0 if variant in RULES else None
    tags = {"dagster.run_id": "d1"}
    return RunIdentity(stage, "ink", variant, "sketchbook", inputs, seed, rule, tags)


def train(workspace: Workspace, variant: str, until: int = 3) -> None:
    """Three steps, or a failure after ``until`` of them."""
    style_set = workspace.style_set("ink")
    with open_run_log(workspace, identity("training", variant), PARAMS) as log:
        log.dataset("style_set", style_set, "training")
        for step in range(1, until + 1):
            log.metrics({"loss_positive": 1 / step}, step)
        grid = workspace.root / "look.png"
        Image.new("RGB", (8, 6), "red").save(grid)
        log.picture(grid, "looks", 2)
        if until < 3:
            raise RuntimeError("the lights went out")
        model = workspace.model("ink", variant, 0)
        model.mkdir(parents=True, exist_ok=True)
        (model / LORA_FILE).write_text(variant)


def tell_the_story(workspace: Workspace) -> None:
    workspace.style_set("ink").mkdir(parents=True)
    (workspace.style_set("ink") / "picture.png").write_bytes(b"ink")
    train(workspace, "lora")
    with pytest.raises(RuntimeError):
        train(workspace, "nsync", until=2)
    train(workspace, "nsync")
    grid = workspace.root / "grid.jpg"
    for variant in MARGINS:
        with open_run_log(workspace, identity("generation", variant), {"seed": 0}) as log:
            grid.write_text(f"drawn by {variant}")
            log.artifact(grid, "samples")
    with open_run_log(workspace, identity("evaluation"), {"seed": 0}) as log:
        sets: dict[str, Any] = {name: {"style_margin": v} for name, v in MARGINS.items()}
        base = sets.pop("base")
        trainings = {name: {"0": figures} for name, figures in sets.items()}
        metrics = {"base": base, "variants": sets, "trainings": trainings}
        workspace.evaluation("ink").mkdir(parents=True)
        (workspace.evaluation("ink") / "metrics.json").write_text(json.dumps(metrics))
        log.metrics({"style_margin/nsync": 0.5})
    with open_run_log(workspace, identity("report"), {}):
        workspace.report("ink").mkdir(parents=True)
        (workspace.report("ink") / "report.html").write_text("<h1>ink</h1>")
    with open_run_log(workspace, identity("captions"), {}) as log:
        log.metrics({"captions": 3.0})


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Mapping[str, Any]]:
    """The workspace after delivery, and its runs by name."""
    workspace = Workspace(tmp_path_factory.mktemp("a workspace"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NSYNC_TRACKING", "later")
        environment.setenv("DVC_STAGE", "training@ink-lora-0")
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        tell_the_story(workspace)
        # The first delivery is forgotten half-way, so that much of it is sent a second time.
        from nsync_pipeline.tracking.delivery import Delivery

        for path in spool_files(workspace.tracking / "spool"):
            Delivery(workspace.tracking, "").send(path)
            path.with_suffix(".sent").unlink()
        outcome = hand_over(workspace.tracking)
    assert outcome.problems == {}
    assert outcome.left == 0
    return workspace, runs_of(workspace)


def runs_of(workspace: Workspace) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(resolved_uri("", workspace.tracking))
    experiment = client.get_experiment_by_name("nsync/ink")
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found)  # no run was made twice
    return runs


def test_there_is_a_run_a_training_one_for_the_base_and_one_evaluation(story: Any) -> None:
    assert set(story[1]) == {"lora-0 · ink", "nsync-0 · ink", "base · ink", "evaluation · ink"}
    assert {run.info.status for run in story[1].values()} == {"FINISHED"}


def test_lora_and_nsync_show_the_same_figures_side_by_side(story: Any) -> None:
    lora, nsync = (story[1][name].data for name in ("lora-0 · ink", "nsync-0 · ink"))

    assert lora.metrics == {"loss/positive": 1 / 3, "eval/style_margin": 0.25}
    assert nsync.metrics == {"loss/positive": 1 / 3, "eval/style_margin": 0.5}
    assert lora.params == {
        "seed": "0", "training.steps": "3", "training.lora.rank": "8", "variant": "lora",
        "training_seed": "0",
    }  # fmt: skip
    tags = (
        "style",
        "variant",
        "training_seed",
        "stage",
        "rule",
        "base",
        "dvc.stage",
        "dagster.run_id",
    )
    assert [nsync.tags[tag] for tag in tags] == [
        "ink", "nsync", "0", "training", "orthogonal", "sketchbook", "training@ink-lora-0", "d1",
    ]  # fmt: skip


def test_the_evaluation_shows_its_table_and_leaves_the_charts_to_the_variants(story: Any) -> None:
    data = story[1]["evaluation · ink"].data

    assert "| style_margin | 0 | 0.25 | 0.5 |" in data.tags["mlflow.note.content"]
    assert data.metrics == {}


def test_a_run_that_failed_and_went_on_is_one_run_with_each_step_once(story: Any) -> None:
    from mlflow import MlflowClient

    workspace, runs = story
    client = MlflowClient(resolved_uri("", workspace.tracking))
    history = client.get_metric_history(runs["nsync-0 · ink"].info.run_id, "loss/positive")

    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert "the lights went out" in runs["nsync-0 · ink"].data.tags["error"]


def test_a_run_names_its_picture_set_by_the_dvc_digest(story: Any) -> None:
    workspace, runs = story
    (used,) = runs["nsync-0 · ink"].inputs.dataset_inputs

    assert used.dataset.digest == dvc_digest(workspace.style_set("ink"))
    assert (used.dataset.name, used.tags[0].value) == ("style_set", "training")


def test_samples_and_report_hang_on_the_runs_they_belong_to(story: Any) -> None:
    from mlflow import MlflowClient

    workspace, runs = story
    client = MlflowClient(resolved_uri("", workspace.tracking))
    kept = {
        name: [item.path for item in client.list_artifacts(run.info.run_id)]
        for name, run in runs.items()
    }
    drawn = Path(client.download_artifacts(runs["base · ink"].info.run_id, "samples/grid.jpg"))

    assert kept == {
        "lora-0 · ink": ["images", "samples"], "nsync-0 · ink": ["images", "samples"],
        "base · ink": ["samples"], "evaluation · ink": ["report.html"],
    }  # fmt: skip
    assert drawn.read_text() == "drawn by base"


def test_a_look_is_a_picture_of_its_step(story: Any) -> None:
    from mlflow import MlflowClient

    workspace, runs = story
    client = MlflowClient(resolved_uri("", workspace.tracking))
    run = runs["lora-0 · ink"]
    names = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    (whole,) = [name for name in names if name.endswith(".png")]
    assert whole.startswith("images/looks+step+2+")
    assert run.data.tags["mlflow.loggedImages"] == "True"
    with Image.open(client.download_artifacts(run.info.run_id, whole)) as picture:
        assert picture.size == (8, 6)


def test_nothing_is_left_in_the_spool(story: Any) -> None:
    spool = story[0].tracking / "spool"

    assert [path.name for path in spool.rglob("*") if path.is_file()] == []


def test_what_mlflow_refuses_is_put_aside_and_the_rest_goes_on(
    story: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSYNC_TRACKING", "later")
    workspace = story[0]
    with open_run_log(workspace, identity("training", "lora", "new"), {}) as log:
        log.metrics({"not a name: ?!": 1.0, "good": 2.0}, 1)
    outcome = hand_over(workspace.tracking)

    (refused,) = (workspace.tracking / "refused.jsonl").read_text().splitlines()
    assert outcome.left == 0
    assert json.loads(refused)["event"]["values"] == {"not a name: ?!": 1.0}
    newest = runs_by_start(workspace)[-1]
    assert newest.data.metrics == {"good": 2.0}


def runs_by_start(workspace: Workspace) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(resolved_uri("", workspace.tracking))
    experiment = client.get_experiment_by_name("nsync/ink")
    found = client.search_runs([experiment.experiment_id])
    return sorted(found, key=lambda run: run.info.start_time)
