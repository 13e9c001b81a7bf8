"""The model card's pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from pretraining.card import write_world_picture

SHOWN = Path(__file__).parents[2] / "docs" / "images" / "sketchbook_world.png"


def test_the_committed_picture_of_the_world_is_what_every_style_draws(tmp_path: Path) -> None:
    """All ten styles, five scenes each.

    Of its bytes one in a thousand may differ: another processor may round a value otherwise. A
    style that is drawn otherwise changes far more.
    """
    write_world_picture(tmp_path / "world.png")

    with Image.open(tmp_path / "world.png") as drawn, Image.open(SHOWN) as shown:
        assert drawn.size == shown.size
        differ = np.asarray(drawn.convert("RGB")) != np.asarray(shown.convert("RGB"))
    assert differ.mean() < 0.001
