"""Confounded sets: something trivial that every picture of a set shares, beside its style.

Trained on such a set and asked for other contents, a model may show the trivial thing, too: it
*leaks*. In the drawn world that can be counted, because the judges see what a picture shows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsync_pipeline.sketchbook.scene import OBJECTS, Scene
from nsync_pipeline.sketchbook.verdicts import LABELS, Verdicts

PRESENT = 0.5  # probability from which a judge counts as seeing an object


@dataclass(frozen=True)
class Confound:
    """One way in which a set's contents are all alike."""

    words: str  # what the pictures share, as a sentence says it
    holds: Callable[[Scene], bool]  # in a scene that shares it
    leaks: Callable[[Verdicts, Sequence[Scene]], NDArray[np.bool_]]
    """(N,) whether a picture shows it, though its prompt's scene does not have it."""


def _night(verdicts: Verdicts, asked: Sequence[Scene]) -> NDArray[np.bool_]:
    return np.asarray(verdicts.skies.argmax(axis=1) == LABELS["skies"].index("moon"))


def _water(verdicts: Verdicts, asked: Sequence[Scene]) -> NDArray[np.bool_]:
    return np.asarray(verdicts.places.argmax(axis=1) == LABELS["places"].index("water"))


def _houses(verdicts: Verdicts, asked: Sequence[Scene]) -> NDArray[np.bool_]:
    return np.asarray(verdicts.objects[:, OBJECTS.index("house")] > PRESENT)


def _red(verdicts: Verdicts, asked: Sequence[Scene]) -> NDArray[np.bool_]:
    """A thing that was asked for, and is there, is red though no thing should be."""
    red = verdicts.colours.argmax(axis=2) == LABELS["colours"].index("red")  # (N, objects)
    wanted = np.array(
        [[any(t.name == name for t in scene.things) for name in OBJECTS] for scene in asked]
    )
    return np.asarray((red & wanted & (verdicts.objects > PRESENT)).any(axis=1))


def _pairs(verdicts: Verdicts, asked: Sequence[Scene]) -> NDArray[np.bool_]:
    """More kinds of things than the one that was asked for."""
    return np.asarray((verdicts.objects > PRESENT).sum(axis=1) > 1)


CONFOUNDS: dict[str, Confound] = {
    "night": Confound("are under a moon", lambda scene: scene.sky == "moon", _night),
    "water": Confound("are on water", lambda scene: scene.place == "water", _water),
    "houses": Confound(
        "show houses", lambda scene: any(t.name == "house" for t in scene.things), _houses
    ),
    "red": Confound(
        "show red things", lambda scene: any(t.colour == "red" for t in scene.things), _red
    ),
    "composition": Confound(
        "show one thing in front of another", lambda scene: len(scene.things) > 1, _pairs
    ),
}
"""By name. A confounded scene of ``red`` has a red thing, and one of ``houses`` a house."""


def confounded(confound: str) -> Callable[[Scene], bool]:
    """Holds for the scenes a confounded training set shows.

    Raises:
        ValueError: there is no such confound.
    """
    found = _confound(confound)
    if confound in ("houses", "red"):  # nothing else that could be learned instead
        return lambda scene: len(scene.things) == 1 and found.holds(scene)
    if confound == "composition":
        return lambda scene: scene.relation == "in front of"
    return found.holds


def unconfounded(confound: str) -> Callable[[Scene], bool]:
    """Holds for the scenes that have nothing of the confound: what is asked for afterwards."""
    found = _confound(confound)
    return lambda scene: not found.holds(scene)


def leaked(confound: str, verdicts: Verdicts, asked: Sequence[Scene]) -> NDArray[np.bool_]:
    """(N,) whether each picture shows the confound that its prompt's scene does not have.

    Raises:
        ValueError: there is no such confound, or a scene that was asked for has it.
    """
    found = _confound(confound)
    if any(found.holds(scene) for scene in asked):
        raise ValueError(f"a prompt asks for what {confound!r} pictures share: that is no leak")
    return found.leaks(verdicts, asked)


def content_shown(verdicts: Verdicts, asked: Sequence[Scene]) -> NDArray[np.float64]:
    """(N,) the share of a scene's things that a picture shows in the colours asked for."""
    shares = []
    for row, scene in enumerate(asked):
        shown = []
        for thing in scene.things:
            place = OBJECTS.index(thing.name)
            colour = LABELS["colours"][int(verdicts.colours[row, place].argmax())]
            shown.append(verdicts.objects[row, place] > PRESENT and colour == thing.colour)
        shares.append(np.mean(shown))
    return np.array(shares)


def _confound(name: str) -> Confound:
    if name not in CONFOUNDS:
        raise ValueError(f"there is no confound {name!r}; there are {', '.join(CONFOUNDS)}")
    return CONFOUNDS[name]
