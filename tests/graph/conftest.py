from pathlib import Path

import pytest
from fake_workspace import FakeWorkspace, make_fake_workspace


@pytest.fixture
def fake(tmp_path: Path) -> FakeWorkspace:
    """A workspace with fake stages, for the command line."""
    return make_fake_workspace(tmp_path, with_dvc=False)


@pytest.fixture
def fake_with_dvc(tmp_path: Path) -> FakeWorkspace:
    """A workspace with fake stages, in git, with DVC."""
    return make_fake_workspace(tmp_path)
