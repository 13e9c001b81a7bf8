"""What every evaluation of these tests does once less often."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _few_drawings_of_seen_styles() -> Iterator[None]:
    """Prototypes of four drawings each, not 32: drawing takes longer than all that is tested."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("nsync_pipeline.evaluation.features.SEEN_STYLE_PICTURES", 4)
        yield
