"""Confounded sets and what leaks of them."""

import numpy as np
import pytest

from nsync_pipeline.sketchbook.confounds import (
    CONFOUNDS,
    confounded,
    content_shown,
    leaked,
    unconfounded,
)
from nsync_pipeline.sketchbook.scene import COLOURS, OBJECTS, scene_of
from nsync_pipeline.sketchbook.verdicts import LABELS, Verdicts
from nsync_pipeline.sketchbook.world import content_scenes

RED_HOUSE = "a red house on grass under a sun"
NIGHT_PAIR = "a blue boat in front of a green tree on water under a moon"


def verdicts(things: dict[str, str], place: str = "grass", sky: str = "sun") -> Verdicts:
    """One picture, of which the judges are sure."""
    objects, colours = np.zeros((1, len(OBJECTS))), np.zeros((1, len(OBJECTS), len(COLOURS)))
    for name, colour in things.items():
        objects[0, OBJECTS.index(name)] = 1.0
        colours[0, OBJECTS.index(name), list(COLOURS).index(colour)] = 1.0
    rows = [
        np.array([[float(n == chosen) for n in LABELS[kind]]])
        for kind, chosen in (("places", place), ("skies", sky), ("styles", "oil"))
    ]
    return Verdicts(*(array.astype(np.float32) for array in (objects, colours, *rows)))


def test_a_scene_is_read_back_from_its_caption() -> None:
    scenes = content_scenes(200, seed=5)
    assert [scene_of(scene.caption) for scene in scenes] == scenes


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a red horse on grass under a sun",
        "a red house",
        RED_HOUSE + " and a cat",
        "an red house on grass under a sun",
        "a red house on grass under a star",
    ],
)
def test_another_caption_has_no_scene(caption: str) -> None:
    assert scene_of(caption) is None


@pytest.mark.parametrize("name", CONFOUNDS)
def test_what_is_trained_on_has_the_confound_and_what_is_asked_for_has_not(name: str) -> None:
    scenes = content_scenes(300, seed=1)
    shown = [scene for scene in scenes if confounded(name)(scene)]
    asked = [scene for scene in scenes if unconfounded(name)(scene)]
    assert len(shown) > 3
    assert len(asked) > 30
    assert all(CONFOUNDS[name].holds(scene) for scene in shown)
    assert not any(CONFOUNDS[name].holds(scene) for scene in asked)


@pytest.mark.parametrize(
    ("name", "clean", "leaking"),
    [
        ("night", {"sky": "clouds"}, {"sky": "moon"}),
        ("water", {"place": "snow"}, {"place": "water"}),
        ("houses", {}, {"things": {"tree": "green", "house": "blue"}}),
        ("red", {}, {"things": {"tree": "red"}}),
        ("composition", {}, {"things": {"tree": "green", "cat": "blue"}}),
    ],
)
def test_a_leak_is_seen_where_nobody_asked_for_it(
    name: str, clean: dict[str, str], leaking: dict[str, str]
) -> None:
    asked = [scene_of("a green tree on grass under a sun")]
    tree = {"things": {"tree": "green"}}
    assert leaked(name, verdicts(**(tree | clean)), asked).tolist() == [False]  # type: ignore[arg-type]
    assert leaked(name, verdicts(**(tree | leaking)), asked).tolist() == [True]  # type: ignore[arg-type]


def test_red_things_nobody_asked_for_are_no_leak_of_red() -> None:
    """A doubled or invented thing is a fault of content."""
    asked = [scene_of("a green tree on grass under a sun")]
    seen = verdicts({"tree": "green", "cat": "red"})
    assert leaked("red", seen, asked).tolist() == [False]  # type: ignore[arg-type]


def test_a_prompt_that_asks_for_the_confound_is_refused() -> None:
    with pytest.raises(ValueError, match="no leak"):
        leaked("night", verdicts({}), [scene_of(NIGHT_PAIR)])  # type: ignore[list-item]


def test_content_is_the_share_of_things_in_their_colours() -> None:
    """Of a blue boat and a green tree, the tree is there in red: one of two."""
    scene = scene_of(NIGHT_PAIR)
    assert scene is not None
    seen = verdicts({"boat": "blue", "tree": "red"})
    assert content_shown(seen, [scene]).tolist() == [0.5]
    assert content_shown(verdicts({}), [scene]).tolist() == [0.0]
