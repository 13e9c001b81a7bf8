"""The judges' bookkeeping: what counts as recognised."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nsync_pipeline.sketchbook.judges import build_judges, load_judges
from nsync_pipeline.sketchbook.scene import Scene, Thing
from nsync_pipeline.sketchbook.verdicts import LABELS, Verdicts
from pretraining.judges import save_judges, scene_targets, worn_picture
from pretraining.quality import accepted_styles, rates, true_drawings

CAT = Scene((Thing("cat", "blue"),), None, "sand", "moon")
PAIR = Scene((Thing("house", "red"), Thing("cat", "black")), "beside", "snow", "sun")


def _verdicts() -> Verdicts:
    """Of CAT: all right. Of PAIR: the house unseen, the cat seen but blue; ink taken for oil."""
    objects = np.zeros((2, 8), dtype=np.float32)
    colours = np.zeros((2, 8, 7), dtype=np.float32)
    styles = np.zeros((2, 10), dtype=np.float32)
    cat, house = LABELS["objects"].index("cat"), LABELS["objects"].index("house")
    objects[:, cat] = 0.9
    objects[1, house] = 0.4
    colours[:, cat, LABELS["colours"].index("blue")] = 1
    colours[1, house, LABELS["colours"].index("red")] = 1
    styles[:, LABELS["styles"].index("oil")] = 1
    places = np.eye(4, dtype=np.float32)[[LABELS["places"].index(p) for p in ("sand", "snow")]]
    skies = np.eye(4, dtype=np.float32)[[LABELS["skies"].index(s) for s in ("moon", "moon")]]
    return Verdicts(objects, colours, places, skies, styles)


def test_rates_count_named_things() -> None:
    found = rates(_verdicts(), [CAT, PAIR], ["painting", "ink"])
    assert found.objects == pytest.approx(2 / 3)  # both cats, not the house
    assert found.colours == pytest.approx(1 / 3)  # a colour counts where its object is seen
    assert found.places == 1.0
    assert found.skies == 0.5
    assert found.styles == 0.5  # oil is a painting, and no ink
    assert found.each_style == {"painting": 1.0, "ink": 0.0}


def test_targets_leave_absent_objects_without_colour() -> None:
    presence, colours, places, skies = scene_targets([PAIR])
    assert presence.sum() == 2
    assert (colours != -100).sum() == 2
    assert LABELS["places"][places[0]] == "snow"
    assert LABELS["skies"][skies[0]] == "sun"


def test_true_drawings_of_an_umbrella_word_take_turns() -> None:
    pictures = true_drawings([CAT, CAT, CAT], ["painting"] * 3)
    assert pictures.shape == (3, 128, 128, 3)
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert accepted_styles("ink") == ("ink",)


def test_worn_picture_stays_a_picture() -> None:
    picture = true_drawings([CAT], ["photo"])[0]
    rng = np.random.default_rng(0)
    for _ in range(20):
        worn = worn_picture(picture, rng)
        assert worn.shape == picture.shape
        assert worn.dtype == np.uint8
        assert np.abs(worn.astype(int) - picture).mean() < 20


def test_saved_judges_judge_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judges = build_judges(4)
    judges.content.eval()
    judges.style.eval()
    save_judges(judges, 4, tmp_path)
    pictures = true_drawings([CAT, PAIR], ["photo", "ink"])
    expected, found = judges.judge(pictures), load_judges(tmp_path).judge(pictures)
    np.testing.assert_allclose(found.styles, expected.styles, atol=2e-3)  # stored in half
    np.testing.assert_allclose(found.styles.sum(axis=1), 1, atol=1e-5)
