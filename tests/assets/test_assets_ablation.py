"""The ablation as an asset and a job of its own; stages are fakes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey

from assets.definitions import defs
from assets.partitions import STYLES

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from tests.support.fake_workspace import FakeWorkspace, make_fake_workspace

ABLATION = AssetKey("ablation")
RUN = Path(__file__).with_name("run_ablate.py")
TRAININGS = 9  # three variants in params.yaml, three training seeds


def test_it_stands_beside_the_graph_of_a_style() -> None:
    node = defs.resolve_asset_graph().get(ABLATION)

    assert node.parent_keys == {AssetKey("negative_set"), AssetKey("base_samples")}
    assert node.child_keys == set()
    assert node.partitions_def == STYLES
    assert node.pools == {"gpu"}
    selected = {
        job: defs.resolve_job_def(job).asset_layer.selected_asset_keys
        for job in ("prepare", "learn", "assess", "ablate")
    }
    assert [job for job, keys in selected.items() if ABLATION in keys] == ["ablate"]
    assert selected["ablate"] == {ABLATION}


def run_job(fake: FakeWorkspace, **environment: str) -> dict[str, Any]:
    done = fake.call(sys.executable, str(RUN), "woodblock", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.pipeline
def test_its_job_makes_what_is_missing_and_shows_what_came_out(tmp_path: Path) -> None:
    fake = make_fake_workspace(tmp_path, with_dvc=False)
    fake.edit_params("  device: auto", "  device: cpu")
    failed = run_job(fake, FAKE_FAILS="evaluation")
    assert not failed["success"]
    assert "evaluation was told to fail" in failed["failures"][0]
    assert sum(name.startswith("training") for name in fake.ran()) == TRAININGS

    result = run_job(fake)
    assert result["success"], result
    assert fake.ran() == ["evaluation-woodblock", "report-woodblock"]
    assert result["metadata"]["report"].endswith("/ablations/woodblock/reports/report.html")
    assert int(result["metadata"]["files"]) > TRAININGS  # the figure of a fake stage
    assert result["metadata"]["a square"].startswith("![a square](data:image/jpeg;base64,")
    assert "[20 of 20] report" in result["log"]
    assert any(line.startswith("report · woodblock: steps 10/10") for line in result["log"])
