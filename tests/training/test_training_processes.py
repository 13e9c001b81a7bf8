"""Several processes train what one would; where one ends, all do, and the user is told why."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nsync_pipeline.errors import WorkerError
from nsync_pipeline.graph.processes import run_workers
from nsync_pipeline.training.processes import ALONE
from tests.support import training_ranks

SCRIPT = training_ranks.__file__
SETTINGS: dict[str, Any] = {
    "update_rule": "orthogonal_anchor",
    "steps": 6,
    "batch_size": 5,  # over two processes: two samples and three
    "learning_rate": 0.01,
    "ema_decay": 0.9,
    "contrast": {"negative_estimate": "running_mean"},
    "random_flip": "each",
    "checkpoint_every": 2,
    "keep": "best",
    "watch": {"every": 2},
}


def command(base: Path, folder: Path, *more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    return [sys.executable, SCRIPT, str(base), str(folder), json.dumps(SETTINGS), *more]


def results(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(path) for path in sorted(folder.glob("rank_*.pt"))]


def largest_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    pairs = zip(a["weights"], b["weights"], strict=True)
    return max(float((x - y).abs().max()) for x, y in pairs)


@pytest.fixture(scope="module")
def alone(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process trains."""
    folder = tmp_path_factory.mktemp("alone")
    training_ranks.run(training_ranks.parsed(command(tiny_base, folder)[2:]), ALONE)
    (result,) = results(folder)
    assert result["weights"][0].dtype == torch.float64
    return result


def test_two_processes_train_what_one_does_also_where_one_was_killed(
    alone: dict[str, Any], tiny_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL at step 5, after the checkpoint at 4: all end, and the same command goes on.

    The step's five samples are two and three; a running estimate and an average are kept. Looks at
    steps 0, 2, 4 and 6 score 0, 2, 4 and 1: the weights of step 4 are the best.
    """
    started = time.monotonic()
    with pytest.raises(WorkerError, match=r"process 1 of 2 was killed \(SIGKILL\)") as caught:
        run_workers(command(tiny_base, tmp_path, "--dies", "1", "5"), 2)
    assert time.monotonic() - started < 60
    assert caught.value.exit_code == 1
    assert "another process of this training has ended" in capfd.readouterr().err
    assert not results(tmp_path)

    run_workers(command(tiny_base, tmp_path), 2)
    first, second = results(tmp_path)
    assert largest_difference(first, second) == 0.0
    assert largest_difference(first, alone) < 1e-10
    assert first["shares"] == second["shares"]
    assert first["shares"] == pytest.approx(alone["shares"], abs=1e-10)
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-12)
    # The second measures none: it has those of the checkpoint from which it went on.
    assert (first["held_out"], second["held_out"]) == ([0, 2, 4, 6], [0, 2, 4])
    assert (first["kept"], second["kept"], alone["kept"]) == (4, 4, 4)


def test_processes_that_came_apart_are_noticed(
    tiny_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One process's weights are off by 1e-9 from the start."""
    with pytest.raises(WorkerError):
        run_workers(command(tiny_base, tmp_path, "--differs", "1"), 2)
    assert "the trained weights of process 1 of 2 are not those of process 0" in (
        capfd.readouterr().err
    )
    assert not results(tmp_path)
