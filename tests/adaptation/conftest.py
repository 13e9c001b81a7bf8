"""One tiny base for the tests of a file; each finds it as it is."""

from pathlib import Path

import pytest

from nsync_pipeline.adaptation.trainables import remove_trained
from nsync_pipeline.families.family import Family
from tests.support.tiny_style import tiny_family


@pytest.fixture(scope="module")
def family(tiny_base: Path) -> Family:
    return tiny_family(tiny_base)


@pytest.fixture(autouse=True)
def _bare(request: pytest.FixtureRequest) -> None:
    if "family" in request.fixturenames:
        remove_trained(request.getfixturevalue("family"))
