"""A style's whole story in a real MLflow store: the workspace's own."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.tracking import destination
from nsync_pipeline.tracking.destination import OWN, resolved_uri
from nsync_pipeline.tracking.models import LOADER
from nsync_pipeline.tracking.sender import deliver, promote, recorded
from nsync_pipeline.workspace import BASE, LORA_FILE, Workspace, step_folder
from tests.support.artefacts import draw, evaluate, history_csv, train, training_plan, whole_style


@pytest.fixture(autouse=True, scope="module")
def later() -> Any:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NSYNC_TRACKING", "later")
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's folder; it takes seconds to make one."""
    folder = tmp_path_factory.mktemp("store")
    resolved_uri(OWN, folder)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, empty_store: Path) -> Workspace:
    found = Workspace(tmp_path / "a workspace")
    shutil.copytree(empty_store, found.tracking)
    return found


def client_of(workspace: Workspace) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(resolved_uri(OWN, workspace.tracking))


def runs_of(workspace: Workspace, experiment: str = "nsync/ink") -> dict[str, Any]:
    client = client_of(workspace)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found)  # no run was made twice
    return runs


def models_of(workspace: Workspace) -> list[Any]:
    client = client_of(workspace)
    return list(
        client.search_logged_models([client.get_experiment_by_name("nsync/ink").experiment_id])
    )


def figures(workspace: Workspace, run: Any) -> list[tuple[str, int, float]]:
    client = client_of(workspace)
    return [
        (metric.key, metric.step, metric.value)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]


def test_the_whole_story_is_told_once_however_often_it_is_delivered(workspace: Workspace) -> None:
    whole_style(workspace)
    first = deliver(workspace)
    again = deliver(workspace)
    runs = runs_of(workspace)

    assert first.left == again.left == {}
    assert again.sent == 0
    assert set(runs) == {"lora-0 · ink", "nsync-0 · ink", "base · ink", "evaluation · ink"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    told = figures(workspace, runs["nsync-0 · ink"])
    # Three steps of seven, two held-out losses, a look, two results, the samples and a score.
    assert len(told) == len(set(told)) == 3 * 7 + 2 + 2 + 2 + 1 + 1
    (used, *_) = runs["nsync-0 · ink"].inputs.dataset_inputs
    assert (used.dataset.name, len(used.dataset.digest)) == ("style_set", 36)
    client = client_of(workspace)
    kept = {
        name: [item.path for item in client.list_artifacts(run.info.run_id)]
        for name, run in runs.items()
    }
    trained = ["samples.jpg", "training.jpg", "training_2.jpg"]
    assert kept == {
        "lora-0 · ink": trained, "nsync-0 · ink": trained, "base · ink": ["samples.jpg"],
        "evaluation · ink": [
            "evaluation.jpg", "evaluation.json", "metrics.json", "report.html", "report.jpg",
        ],
    }  # fmt: skip


def test_a_training_logs_its_weights_as_a_model_once_whole(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.models import Model

    def cut_off(*arguments: Any) -> None:
        raise ConnectionError("cut off")

    with recorded(workspace, training_plan("nsync"), {}):
        train(workspace, "nsync")
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_model_artifacts", cut_off)
        assert "cut off" in str(deliver(workspace).problem)
    assert deliver(workspace).left == {}
    assert deliver(workspace).sent == 0
    (model,) = models_of(workspace)
    (run,) = runs_of(workspace).values()

    assert (str(model.status), model.name, model.source_run_id) == (
        "READY", "nsync-0", run.info.run_id
    )  # fmt: skip
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert model.tags["dataset.style_set"] == f"{'style_set':0<36}"
    assert model.tags["mlflow.user"] == run.data.tags["mlflow.user"]
    folder = Path(unquote(urlsplit(model.artifact_location).path))
    said = Model.load(str(folder))
    assert said.signature.inputs.input_names() == ["prompt", "seed"]
    assert said.signature.outputs.input_names() == ["png"]
    assert said.flavors["python_function"]["loader_module"] == LOADER
    example = json.loads((folder / "input_example.json").read_text())
    assert example["columns"] == ["prompt", "seed"]
    trained = workspace.model("ink", "nsync", 0)
    for name in ("pytorch_lora_weights.safetensors", "made.json"):
        assert (folder / "data" / "lora" / name).read_bytes() == (trained / name).read_bytes()


def test_a_promoted_training_has_the_alias_and_the_one_before_it_no_longer(
    workspace: Workspace,
) -> None:
    for seed in (0, 1):
        train(workspace, "nsync", seed)
    with pytest.raises(MissingArtifactError, match="run the training stage first"):
        promote(workspace, "ink", "lora", 0, "champion")
    versions = [
        promote(workspace, "ink", "nsync", seed, "champion").version for seed in (0, 0, 1, 0)
    ]

    assert versions == ["1", "1", "2", "1"]
    found = client_of(workspace).get_model_version_by_alias("nsync-ink", "champion")
    assert (str(found.version), found.tags["training_seed"]) == ("1", "0")


def test_of_a_chosen_step_its_own_weights_are_promoted(workspace: Workspace) -> None:
    train(workspace, "nsync", 0)
    model = workspace.model("ink", "nsync", 0)
    chosen = step_folder(model, 50)
    chosen.mkdir(parents=True)
    (chosen / LORA_FILE).write_bytes(b"as after step 50")
    promote(workspace, "ink", "nsync", 0, "champion")
    versions = [promote(workspace, "ink", "nsync", 0, "mine", chosen).version for _ in range(2)]
    assert versions == ["2", "2"]
    client = client_of(workspace)
    for alias, expected in (("champion", (model / LORA_FILE).read_bytes()), ("mine", b"as after")):
        version = client.get_model_version_by_alias("nsync-ink", alias)
        uri = client.get_model_version_download_uri("nsync-ink", version.version)
        place = unquote(urlsplit(uri).path)
        assert (Path(place) / "data" / "lora" / LORA_FILE).read_bytes().startswith(expected)


def test_the_trainings_of_a_variant_lie_below_one_run_with_their_means(
    workspace: Workspace,
) -> None:
    own = replace(workspace, of_ablation=True)
    for place in (workspace, own):
        draw(place, BASE)
        for variant, seed in (("lora", 0), ("lora", 1), ("nsync", 0)):
            train(place, variant, seed)
            draw(place, variant, seed)
        evaluate(place, [("lora", 0), ("lora", 1), ("nsync", 0)])
    assert deliver(workspace).left == {}
    assert deliver(workspace).sent == 0
    for experiment, top in (("nsync/ink", None), ("nsync/ink/ablation", "evaluation · ink")):
        runs = runs_of(workspace, experiment)
        names = {run.info.run_id: name for name, run in runs.items()}
        above = {n: names.get(r.data.tags.get("mlflow.parentRunId")) for n, r in runs.items()}
        assert above == {
            "lora-0 · ink": "lora · ink", "lora-1 · ink": "lora · ink", "lora · ink": top,
            "nsync-0 · ink": top, "base · ink": None, "evaluation · ink": None,
        }  # fmt: skip
        assert runs["lora · ink"].data.metrics == {"eval/style_margin": 0.25}


def test_two_experiments_of_one_training_differ_in_name_and_tag(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps, name in ((3, "wet-ink"), (4, "dry-ink")):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        with recorded(workspace, training_plan("nsync", steps=steps), {}):
            train(workspace, "nsync", steps=steps)
        deliver(workspace)
    runs = runs_of(workspace)

    assert set(runs) == {"nsync-0 · ink · wet-ink", "nsync-0 · ink · dry-ink"}
    assert {run.data.tags["dvc.exp"] for run in runs.values()} == {"wet-ink", "dry-ink"}


def test_a_look_is_a_picture_of_its_step(workspace: Workspace) -> None:
    train(workspace, "nsync", steps=2)
    deliver(workspace)
    (run,) = runs_of(workspace, "nsync/ink/looks").values()
    client = client_of(workspace)
    names = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    (whole,) = [name for name in names if name.endswith(".png")]

    assert whole.startswith("images/looks+step+2+timestamp+")
    assert whole.replace(".png", "+compressed.webp") in names
    assert run.data.tags["mlflow.loggedImages"] == "True"
    with Image.open(client.download_artifacts(run.info.run_id, whole)) as picture:
        assert picture.size == (8, 6)


def test_a_training_that_failed_and_went_on_is_one_run_with_each_step_once(
    workspace: Workspace,
) -> None:
    plan, folder = training_plan("nsync"), workspace.scratch("live", "ink", "nsync", "0")
    statuses = []

    def fail() -> None:
        with recorded(workspace, plan, {}):
            (folder / "history.csv").write_text(history_csv(2))
            deliver(workspace)
            statuses.append(runs_of(workspace)["nsync-0 · ink"].info.status)
            raise RuntimeError("the lights went out")

    with pytest.raises(RuntimeError):
        fail()
    deliver(workspace)
    statuses.append(runs_of(workspace)["nsync-0 · ink"].info.status)
    with recorded(workspace, plan, {}):
        deliver(workspace)
        statuses.append(runs_of(workspace)["nsync-0 · ink"].info.status)
        train(workspace, "nsync")
    deliver(workspace)
    (run,) = runs_of(workspace).values()

    assert [*statuses, run.info.status] == ["RUNNING", "FAILED", "RUNNING", "FINISHED"]
    assert "the lights went out" in run.data.tags["error"]
    steps = [step for name, step, _ in figures(workspace, run) if name == "loss/positive"]
    assert sorted(steps) == [1, 2, 3]


def test_the_steps_are_spread_over_the_time_that_a_training_took(workspace: Workspace) -> None:
    with recorded(workspace, training_plan("nsync", steps=4), {}):
        time.sleep(0.1)
        train(workspace, "nsync", steps=4)
    deliver(workspace)
    (run,) = runs_of(workspace).values()
    history = client_of(workspace).get_metric_history(run.info.run_id, "loss/positive")
    length = run.info.end_time - run.info.start_time

    assert length >= 100  # milliseconds
    after = {metric.step: metric.timestamp - run.info.start_time for metric in history}
    assert after == {step: int(step * length / 4) for step in (1, 2, 3, 4)}


def test_a_training_whose_process_was_killed_is_said_to_be(workspace: Workspace) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from support.artefacts import training_plan\n"
        "from nsync_pipeline.tracking.sender import recorded\n"
        "from nsync_pipeline.workspace import Workspace\n"
        "with recorded(Workspace(Path(sys.argv[1])), training_plan('nsync'), {}):\n"
        "    assert 'mlflow' not in sys.modules\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", code, str(workspace.root), tests], check=False)
    deliver(workspace)
    (run,) = runs_of(workspace).values()

    assert run.info.status == "KILLED"


def test_the_same_weights_from_another_machine_are_the_same_run(workspace: Workspace) -> None:
    train(workspace, "nsync")
    deliver(workspace)
    shutil.rmtree(workspace.model("ink", "nsync", 0))
    train(workspace, "nsync")  # as DVC restores it: the content is the same, the times are not

    assert deliver(workspace).sent == 0
    assert len(runs_of(workspace)) == 1


def test_other_weights_of_the_same_settings_are_another_run(workspace: Workspace) -> None:
    train(workspace, "nsync")
    deliver(workspace)
    train(workspace, "nsync", weights="of another accelerator")
    deliver(workspace)
    client = client_of(workspace)
    experiment = client.get_experiment_by_name("nsync/ink").experiment_id

    assert len(client.search_runs([experiment])) == 2


def test_a_new_evaluation_shows_its_scores_on_the_run_that_was_there(workspace: Workspace) -> None:
    whole_style(workspace)
    deliver(workspace)
    for margin in (0.5, 0.25):  # and the first score again is the newest one, too
        evaluate(workspace, [("lora", 0), ("nsync", 0)], margin)
        deliver(workspace)
        client = client_of(workspace)
        experiment = client.get_experiment_by_name("nsync/ink").experiment_id
        (run,) = client.search_runs([experiment], "attributes.run_name = 'nsync-0 · ink'")
        assert run.data.metrics["eval/style_margin"] == margin


def test_an_ablation_does_not_mix_with_the_main_runs_not_even_of_the_same_weights(
    workspace: Workspace,
) -> None:
    own = replace(workspace, of_ablation=True)
    train(workspace, "lora")
    draw(workspace, BASE)
    for variant in ("lora", "old"):
        train(own, variant)
        draw(own, variant)
    groups = [evaluate(own, [("lora", 0), ("old", 0)])["content"][:8]]
    deliver(workspace)
    groups.append(evaluate(own, [("lora", 0)])["content"][:8])
    deliver(workspace)
    client = client_of(workspace)
    experiment = client.get_experiment_by_name("nsync/ink/ablation").experiment_id
    found = [
        sorted(
            run.info.run_name
            for run in client.search_runs([experiment], f"tags.`nsync.ablation` = '{group}'")
        )
        for group in groups
    ]

    assert found == [
        ["evaluation · ink", "old-0 · ink"],
        ["base · ink", "evaluation · ink", "lora-0 · ink"],
    ]
    assert set(runs_of(workspace)) == {"lora-0 · ink", "base · ink"}


def test_a_name_that_mlflow_does_not_take_is_shown_as_it_does(workspace: Workspace) -> None:
    train(workspace, "nsync", steps=5)
    model = workspace.model("ink", "nsync", 0)
    made = json.loads((model / "made.json").read_text())
    made["figures"] |= {"no name: ?!, is it": 1.0, "../up//there/": 2.0}
    (model / "made.json").write_text(json.dumps(made))

    assert deliver(workspace).left == {}
    (run,) = runs_of(workspace).values()
    assert run.data.metrics["result/no name:  is it"] == 1.0
    assert run.data.metrics["up/there"] == 2.0
    assert len(figures(workspace, run)) == 5 * 7 + 2 + 2 + 2 + 2
    assert not (workspace.tracking / "refused.jsonl").exists()


def test_what_mlflow_refuses_is_put_aside_once_and_the_rest_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    taken = MlflowClient.log_batch

    def refuse_params(client: Any, run_id: str, **values: Any) -> None:
        if values.get("params"):
            raise MlflowException("not like this", 1000)  # INVALID_PARAMETER_VALUE
        taken(client, run_id, **values)

    train(workspace, "nsync", steps=5)
    monkeypatch.setattr(MlflowClient, "log_batch", refuse_params)
    outcomes = [deliver(workspace), deliver(workspace)]
    (run,) = runs_of(workspace).values()

    assert [outcome.left for outcome in outcomes] == [{}, {}]
    refused, _ = (workspace.tracking / "refused.jsonl").read_text().splitlines()  # _: the looks'
    assert "training.steps" in json.loads(refused)["names"]
    assert len(figures(workspace, run)) == 5 * 7 + 2 + 2 + 2


def test_a_run_that_was_deleted_on_the_server_is_made_again_whole(workspace: Workspace) -> None:
    train(workspace, "nsync")
    deliver(workspace)
    (run,) = runs_of(workspace).values()
    client_of(workspace).delete_run(run.info.run_id)
    deliver(workspace)
    (again,) = runs_of(workspace).values()

    assert again.info.run_id != run.info.run_id
    assert len(figures(workspace, again)) == len(figures(workspace, run))


def test_a_copied_workspace_keeps_its_pictures_and_leaves_the_first_alone(
    workspace: Workspace, tmp_path: Path
) -> None:
    whole_style(workspace)
    deliver(workspace)
    promote(workspace, "ink", "nsync", 0, "champion")
    copy = Workspace(tmp_path / "a copy")
    shutil.copytree(workspace.root, copy.root)
    before = sorted(workspace.root.rglob("*"))
    train(copy, "nsync", seed=1)
    assert deliver(copy).left == {}
    runs = runs_of(copy)

    assert "nsync-1 · ink" in runs
    assert sorted(workspace.root.rglob("*")) == before
    assert "nsync-1 · ink" not in runs_of(workspace)
    require_files_in(copy)
    moved = Workspace(tmp_path / "moved")
    workspace.root.rename(moved.root)
    require_files_in(moved)


def require_files_in(workspace: Workspace) -> None:
    """Every run's files lie in this workspace, and are there."""
    for run in runs_of(workspace).values():
        folder = Path(unquote(urlsplit(run.info.artifact_uri).path))
        assert folder.is_relative_to(workspace.tracking)
        assert client_of(workspace).list_artifacts(run.info.run_id)
    for model in models_of(workspace):
        folder = Path(unquote(urlsplit(model.artifact_location).path))
        assert folder.is_relative_to(workspace.tracking)
        assert (folder / "MLmodel").is_file()
    version = client_of(workspace).get_model_version_by_alias("nsync-ink", "champion")
    kept = Path(unquote(urlsplit(version.source).path))
    assert kept.is_relative_to(workspace.tracking)
    assert (kept / "MLmodel").is_file()
    again = promote(workspace, "ink", "nsync", 0, "champion")
    assert again.version == str(version.version)


def test_what_sqlite_left_beside_an_old_store_does_not_touch_the_new_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal is played back into whatever database has its name."""
    database = workspace.tracking / "mlflow.db"
    beside = [database.with_name(f"mlflow.db-{of}") for of in ("journal", "wal", "shm")]
    for file in (database, *beside):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 5000)

    class Made:
        def __init__(self, uri: str, _: str) -> None:
            assert not [file for file in (database, *beside) if file.exists()]
            Path(uri.removeprefix("sqlite:///")).write_bytes(b"new")
            self.engine = self

        def dispose(self) -> None:
            pass

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", Made)
    destination._make_store(database)
    assert database.read_bytes() == b"new"
    assert database.with_suffix(".broken").read_bytes() == b"x" * 5000


@pytest.mark.parametrize("kind", ["cut off", "half of it", "no database"])
def test_a_store_whose_making_was_cut_off_is_made_again(
    workspace: Workspace, empty_store: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = workspace.tracking / "mlflow.db"
    made: list[Path] = []

    def quickly(place: Path) -> None:
        made.append(place)
        shutil.copyfile(empty_store / "mlflow.db", place)

    monkeypatch.setattr(destination, "_make_store", quickly)
    whole = database.read_bytes()
    if kind == "cut off":  # during the migrations: tables, and no experiment yet
        with sqlite3.connect(database) as store:
            store.execute("DELETE FROM experiments")
            store.execute("DROP TABLE runs")
    database.write_bytes({"half of it": whole[: len(whole) // 2], "no database": b"x" * 5000}.get(
        kind, database.read_bytes()
    ))  # fmt: skip
    train(workspace, "nsync")

    assert deliver(workspace).left == {}
    assert made == [database]
    assert set(runs_of(workspace)) == {"nsync-0 · ink"}


def test_a_store_is_made_beside_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.tracking import sqlalchemy_store

    (tmp_path / "mlflow.db").write_bytes(b"what a full disk left")

    def killed(uri: str, location: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half a store")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(sqlalchemy_store, "SqlAlchemyStore", killed)
        with pytest.raises(KeyboardInterrupt):
            resolved_uri(OWN, tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    resolved_uri(OWN, tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
