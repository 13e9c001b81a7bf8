from pathlib import Path
from typing import Any

import pytest

from nsync_pipeline.graph.processes import UNDER_DVC
from nsync_pipeline.graph.table import Stage
from nsync_pipeline.workspace import Workspace
from tests.support.fake_stages import SMALL_PARAMS, Fakes
from tests.support.fake_workspace import FakeWorkspace, make_fake_workspace


@pytest.fixture
def fake(tmp_path: Path) -> FakeWorkspace:
    """A workspace with fake stages, for the command line."""
    return make_fake_workspace(tmp_path, with_dvc=False)


@pytest.fixture
def fake_with_dvc(tmp_path: Path) -> FakeWorkspace:
    """A workspace with fake stages, in git, with DVC."""
    return make_fake_workspace(tmp_path)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Fake stages in the place of the real ones, in this process."""
    made = Fakes()

    def run(stage: Stage, context: Any) -> Any:
        return made.run(stage, context)

    monkeypatch.setattr(Stage, "run", run)
    monkeypatch.delenv(UNDER_DVC, raising=False)
    monkeypatch.setenv("NSYNC_TRACKING", "off")
    return made


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """One style, two variants, one training seed, an ablation; on the CPU."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "params.yaml").write_text(SMALL_PARAMS)
    return Workspace(folder)
