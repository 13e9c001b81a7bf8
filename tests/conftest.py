"""Fixtures for all rooms. That this file is here puts ``tests/`` on the path: ``tiny_models``."""

from pathlib import Path

import pytest
from tiny_models import save_tiny_stable_diffusion


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny epsilon-predicting Stable Diffusion; tests must not write to it."""
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("tiny_base"))
