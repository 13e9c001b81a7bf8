"""A real MLflow server that is dead, slow, silent, angry or restarted: each figure arrives once."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsync_pipeline.tracking import sender as sending
from nsync_pipeline.tracking.sender import deliver, notify, recorded, run_sender
from nsync_pipeline.workspace import Workspace
from tests.support.artefacts import history_csv, train, training_plan
from tests.support.mlflow_servers import MlflowServer, Proxy

STEPS = 150
PER_STEP = 7  # six figures of a row, and clip_scale
AT_ENDS = 2 + 2 + 2  # held-out losses, a look, results

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def proxy(behind: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(behind) as found:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
        for name, value in {"TIMEOUT": "2", "MAX_RETRIES": "3", "BACKOFF_FACTOR": "0"}.items():
            monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
        yield found


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    found = Workspace(tmp_path / "workspace")
    yield found
    sender = sending._started.get(found.root)
    if sender is not None:
        sender.terminate()
        sender.wait()


def require_each_figure_once(behind: MlflowServer, seed: int) -> None:
    """Of the training with this seed, which no other test has."""
    from mlflow import MlflowClient

    client = MlflowClient(behind.uri)
    experiment = client.get_experiment_by_name("nsync/ink")
    (run,) = client.search_runs([experiment.experiment_id], f"params.training_seed = '{seed}'")
    history = [
        (metric.key, metric.step)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]
    assert len(history) == len(set(history)) == STEPS * PER_STEP + AT_ENDS
    assert run.info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == [
        "training.jpg", "training_2.jpg",
    ]  # fmt: skip
    (model,) = client.search_logged_models(
        [experiment.experiment_id], f"tags.training_seed = '{seed}'"
    )
    assert str(model.status) == "READY"
    looks = client.get_experiment_by_name("nsync/ink/looks").experiment_id
    (run,) = client.search_runs([looks], f"params.training_seed = '{seed}'")
    names = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert len([name for name in names if name.endswith(".png")]) == 1  # one look


@pytest.mark.parametrize(("seed", "mood"), [(1, "gone"), (2, "401"), (3, "500"), (4, "hangs")])
def test_a_server_that_fails_gets_everything_once_when_it_is_well_again(
    workspace: Workspace, proxy: Proxy, behind: MlflowServer, seed: int, mood: str
) -> None:
    train(workspace, "nsync", seed, STEPS)
    proxy.mood = mood
    failed = deliver(workspace)

    assert (failed.sent, list(failed.left)) == (0, [f"models/ink/nsync/{seed}"])
    proxy.mood = "well"
    assert deliver(workspace).left == {}
    again = deliver(workspace)

    assert (again.sent, again.left) == (0, {})
    require_each_figure_once(behind, seed)


@pytest.mark.parametrize(
    ("seed", "writes", "mood"),
    [
        (10, 0, "forgets to answer"), (11, 1, "forgets to answer"), (12, 2, "forgets to answer"),
        (13, 3, "forgets to answer"), (14, 4, "forgets to answer"), (15, 5, "forgets to answer"),
        (16, 0, "done but 500"), (17, 2, "done but 500"),
    ],
)  # fmt: skip
def test_what_was_done_without_an_answer_is_not_done_twice(
    workspace: Workspace, proxy: Proxy, behind: MlflowServer, seed: int, writes: int, mood: str
) -> None:
    train(workspace, "nsync", seed, STEPS)
    proxy.falls_ill = (writes, mood)
    assert deliver(workspace).left
    proxy.mood = "well"

    assert deliver(workspace).left == {}
    require_each_figure_once(behind, seed)


def test_a_slow_server_gets_everything_once_from_a_sender_that_is_killed_on_the_way(
    workspace: Workspace, proxy: Proxy, behind: MlflowServer
) -> None:
    train(workspace, "nsync", 21, STEPS)
    proxy.mood = "slow"
    command = [sys.executable, "-m", "nsync_pipeline.tracking.sender", str(workspace.root)]
    sender = subprocess.Popen(command)
    wait_until(lambda: proxy.writes >= 3)
    sender.send_signal(signal.SIGKILL)
    sender.wait()

    run_sender(workspace, poll=0.05, linger=0.2)
    require_each_figure_once(behind, 21)


def test_a_training_is_shown_while_it_runs_and_goes_on_after_the_server_was_away(
    workspace: Workspace, proxy: Proxy, behind: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the process that ``notify`` starts; the training itself never waits."""
    plan, folder = training_plan("nsync", 31, STEPS), workspace.scratch("live", "ink/nsync/31")
    with recorded(workspace, plan, {"dagster.run_id": "d1"}):
        (folder / "history.csv").write_text(history_csv(50))
        assert seconds_to_notify(workspace) < 0.1
        wait_until(lambda: shown(behind, 31).get("loss/positive") == 1 / 50)
        proxy.mood = "gone"
        (folder / "history.csv").write_text(history_csv(100))
        time.sleep(3)
        proxy.mood = "well"
        wait_until(lambda: shown(behind, 31).get("loss/positive") == 1 / 100)
        train(workspace, "nsync", 31, STEPS)
    wait_until(lambda: status(behind, 31) == "FINISHED" and deliver(workspace).sent == 0)

    require_each_figure_once(behind, 31)


def test_a_hanging_server_takes_no_time_from_a_training(workspace: Workspace, proxy: Proxy) -> None:
    proxy.mood = "hangs"
    began = time.monotonic()
    with recorded(workspace, training_plan("nsync", 41), {}):
        slowest = max(seconds_to_notify(workspace) for _ in range(20))
        train(workspace, "nsync", 41)
    whole = time.monotonic() - began

    assert slowest < 0.1
    assert whole < 2
    assert deliver(workspace).left  # and it is known that it did not get through


def test_a_server_that_is_restarted_on_the_way_gets_everything_once(
    workspace: Workspace, proxy: Proxy, behind: MlflowServer
) -> None:
    train(workspace, "nsync", 51, STEPS)
    proxy.falls_ill = (3, "gone")
    assert deliver(workspace).left
    behind.stop()
    assert deliver(workspace).left
    behind.start()
    proxy.mood = "well"

    assert deliver(workspace).left == {}
    require_each_figure_once(behind, 51)


def seconds_to_notify(workspace: Workspace) -> float:
    began = time.perf_counter()
    notify(workspace)
    return time.perf_counter() - began


def status(behind: MlflowServer, seed: int) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(behind.uri)
    experiment = client.get_experiment_by_name("nsync/ink")
    (run,) = client.search_runs([experiment.experiment_id], f"params.training_seed = '{seed}'")
    return str(run.info.status)


def shown(behind: MlflowServer, seed: int) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(behind.uri)
    experiment = client.get_experiment_by_name("nsync/ink")
    if experiment is None:
        return {}
    runs = client.search_runs([experiment.experiment_id], f"params.training_seed = '{seed}'")
    return dict(runs[0].data.metrics) if runs else {}


def wait_until(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
