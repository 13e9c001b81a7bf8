"""A workspace whose stages are fakes, and a Dagster that knows nothing of it yet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance

from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.dvc import sync_dvc_file
from nsync_pipeline.graph.run import bring_up_to_date
from nsync_pipeline.graph.table import Stage
from nsync_pipeline.workspace import Workspace
from tests.support.dagster_page import standings_of
from tests.support.fake_stages import SMALL_PARAMS, Fakes


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Fake stages in the place of the real ones, in this process."""
    made = Fakes()

    def run(stage: Stage, context: Any) -> Any:
        return made.run(stage, context)

    monkeypatch.setattr(Stage, "run", run)
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The current folder: a style, two variants, one training seed, an ablation; nothing made."""
    (tmp_path / "params.yaml").write_text(SMALL_PARAMS)
    monkeypatch.chdir(tmp_path)
    sync_dvc_file(Workspace(tmp_path))
    return Workspace(tmp_path)


@pytest.fixture
def make(place: Workspace, fakes: Fakes) -> Callable[..., list[str]]:
    """Brings everything up to date, or the stages that are named; gives what was made."""

    def made(*stages: str, of_ablation: bool = False) -> list[str]:
        titles = []
        for artefact in standings_of(place, of_ablation):
            if stages and artefact.stage.name not in stages:
                continue
            if bring_up_to_date(Graph.read(place), artefact).is_new:
                titles.append(artefact.title)
        return titles

    return made


@pytest.fixture
def instance() -> DagsterInstance:
    return DagsterInstance.ephemeral()
