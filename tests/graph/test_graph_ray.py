"""A cluster of two nodes on this machine: a style through it, a node that dies, and the same bytes.

Ray, DVC and the stages are real.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nsync_pipeline.graph.artefacts import Graph, State
from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.graph.remote.kept import ARCHIVE
from nsync_pipeline.workspace import Workspace
from tests.support.fake_workspace import BIN, REPOSITORY
from tests.support.ray_nodes import RayNodes, ray_nodes
from tests.support.small_workspace import make_small_workspace

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="its processes end by PR_SET_PDEATHSIG"),
]

STYLE = "woodblock"
MADE = ("data", "models", "samples", "evaluation", "reports")
OTHERS = """\
  nsync_every_4:
    update_rule: orthogonal
    contrast:
      negative_every: 4
      negative_estimate: running_mean
"""
SLOW_JOB = """\
#!/bin/sh
# In the place of a node's Python: its stages are fakes that take a minute.
FAKE_SLOW=style_set exec "{python}" -c '
import runpy
from tests.support.fake_nsync import install_fake_stages
install_fake_stages()
runpy.run_module("nsync_pipeline.graph.remote.job", run_name="__main__")
'
"""


@dataclass(frozen=True)
class Cluster:
    """The cluster, and where what all its nodes see lies."""

    ray: RayNodes
    folder: Path

    def workspace(self, folder: Path, kind: str = "local", python: str = sys.executable) -> Path:
        """A workspace of one small training, with a remote of its own and this cluster."""
        small = make_small_workspace(folder)
        small.edit_params(OTHERS, "")
        small.edit_params("  lora:\n    update_rule: none\n", "")
        small.edit_params("  device: auto", "  device: cpu")
        small.edit_params("\n  steps: 4\n", "\n  steps: 30\n")
        with small.workspace.params_file.open("a") as file:
            file.write(
                f"executor:\n  kind: {kind}\n  ray:\n    address: {self.ray.address}\n"
                f"    python: {python}\n    checkpoints: {self.checkpoints}\n"
            )
        sync_dvc_file(small.workspace)
        small.call("dvc", "remote", "add", "--default", "store", str(self.folder / "remote"))
        return folder

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def environment(self, folder: Path) -> dict[str, str]:
        own = make_environment(folder)
        return {**own, **self.ray.environment}


def make_environment(folder: Path) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "RAY_"))}
    return environment | {
        "PYTHONPATH": str(folder),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "NSYNC_TRACKING": "off",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with ray_nodes(2, make_environment(REPOSITORY)) as ray:
        yield Cluster(ray, folder)


def test_style_through_a_cluster_has_the_bytes_of_one_made_here(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The node that trains dies on the way; the other one goes on from its checkpoint."""
    home = cluster.workspace(tmp_path / "home")
    environment = cluster.environment(home)
    nsync = [sys.executable, "-m", "nsync_pipeline.cli"]
    with (tmp_path / "printed.txt").open("w+") as printed:
        submitted = subprocess.Popen(
            [*nsync, "submit", STYLE], cwd=home, env=environment, text=True,
            stdout=printed, stderr=subprocess.STDOUT,
        )  # fmt: skip
        kept = f"training-{STYLE}-nsync-0-*/cpu*/{ARCHIVE}"
        _until(lambda: any(cluster.checkpoints.glob(kept)) or submitted.poll() is not None)
        assert submitted.poll() is None, (tmp_path / "printed.txt").read_text()
        trains = [node for node in cluster.ray.nodes if node.runs_job()]
        assert len(trains) == 1, "nothing else can be made while it trains"
        trains[0].kill()
        died = time.monotonic()
        assert submitted.wait(timeout=1500) == 0, (tmp_path / "printed.txt").read_text()
    said = (tmp_path / "printed.txt").read_text().splitlines()
    print("\n".join(said), f"done {time.monotonic() - died:.0f} s after the node died", sep="\n")
    assert sum("asked for again (1 of 3)" in line for line in said) == 1
    assert any("goes on from" in line for line in said)
    assert not any("is damaged" in line for line in said)
    assert said[-1] == "8 of 8 artefacts made"
    assert not any(cluster.checkpoints.iterdir())

    graph = Graph.read(Workspace(home))
    standings = graph.standings([STYLE])
    assert [standing.state for standing in standings.values()] == [State.FRESH] * 8
    alone = cluster.workspace(tmp_path / "alone")
    subprocess.run(
        [*nsync, "make", STYLE], cwd=alone, env=make_environment(alone), check=True,
        capture_output=True,
    )  # fmt: skip
    assert _hashes(home) == _hashes(alone)


def test_who_ends_dvc_ends_the_job_that_it_waits_for(cluster: Cluster, tmp_path: Path) -> None:
    """However that ends: Dagster's page ends DVC, too."""
    python = tmp_path / "python"
    python.write_text(SLOW_JOB.format(python=sys.executable))
    python.chmod(0o755)
    home = cluster.workspace(tmp_path / "home", kind="ray", python=str(python))
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "--single-item", f"style_set@{STYLE}"],
        cwd=home, env=cluster.environment(home), text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert dvc.stdout is not None
    assert any("steps " in line for line in dvc.stdout), "its progress comes here"
    assert [node for node in cluster.ray.nodes if node.runs_job()]
    dvc.kill()
    dvc.wait()
    _until(lambda: not any(node.runs_job() for node in cluster.ray.nodes))
    assert not (home / "data" / STYLE / "style_set").exists()


def _hashes(root: Path) -> dict[str, str]:
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for made in MADE
        for file in (root / made).rglob("*")
        if file.is_file()
    }


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 900
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.2)
