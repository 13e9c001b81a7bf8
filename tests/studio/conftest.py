from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nsync_pipeline.workspace import Workspace
from tests.support.studio import client_of, make_studio_workspace, read_all


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_studio_workspace(tmp_path)


@pytest.fixture
def studio(workspace: Workspace) -> TestClient:
    """A browser that was given the link; the pictures are read."""
    client = client_of(workspace)
    read_all(client)
    return client
