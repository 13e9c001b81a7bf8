"""Fixtures for all rooms."""

import os
import signal
from pathlib import Path

# One thread a process, for the tests and what they start: there is a test process a core, and
# thread pools that compete for the cores make each other many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A start of DVC that has no settings yet would start a second one, to tell of it.
os.environ["DVC_NO_ANALYTICS"] = "1"
# What tests start finds this checkout's packages, as they do.
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))

# A shell starts what runs in the background deaf to Ctrl-C, and what the tests start would be, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

from tests.support.tiny_models import save_tiny_stable_diffusion

settings.register_profile("no clock", deadline=None)  # a busy machine fails no test
settings.load_profile("no clock")
# What decides about a change tries the same examples each time; new ones are tried beside it.
settings.register_profile("gate", deadline=None, derandomize=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: else a process is left alone with one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny epsilon-predicting Stable Diffusion; tests must not write to it."""
    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("tiny_base"))
