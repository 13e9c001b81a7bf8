"""What is in a picture: a `Scene` of one or two coloured things, where, and under which sky."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (214, 40, 40),
    "orange": (244, 134, 30),
    "yellow": (250, 214, 50),
    "green": (38, 150, 72),
    "blue": (40, 92, 214),
    "purple": (140, 62, 178),
    "black": (44, 42, 50),
}
OBJECTS = ("house", "tree", "car", "boat", "flower", "mushroom", "cat", "umbrella")
RELATIONS = ("beside", "in front of")
PLACES = ("grass", "sand", "water", "snow")
SKIES: dict[str, str] = {  # the sky's name -> its words in a caption
    "sun": "a sun",
    "moon": "a moon",
    "clouds": "clouds",
    "rainbow": "a rainbow",
}
MAX_SCENE_DRAWS = 100_000


@dataclass(frozen=True)
class Thing:
    """One object of a scene, with its colour's name."""

    name: str
    colour: str

    @property
    def phrase(self) -> str:
        """The object with its article, as captions say it: "an orange cat"."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.name}"


@dataclass(frozen=True)
class Scene:
    """The content of a picture; two scenes with one caption are equal."""

    things: tuple[Thing, ...]
    relation: str | None
    place: str
    sky: str

    @property
    def caption(self) -> str:
        """Content only, never a style: "a red house beside a green tree on grass under a sun"."""
        joined = f" {self.relation} ".join(thing.phrase for thing in self.things)
        return f"{joined} on {self.place} under {SKIES[self.sky]}"


CAPTION = re.compile(
    r"an? (?P<first>\w+ \w+)(?: (?P<relation>beside|in front of) an? (?P<second>\w+ \w+))?"
    r" on (?P<place>\w+) under (?P<sky>.+)"
)


def scene_of(caption: str) -> Scene | None:
    """The scene that has this caption; None where no scene of the world has it."""
    found = CAPTION.fullmatch(caption)
    if found is None:
        return None
    things = [words.split() for words in found.group("first", "second") if words]
    sky = next((name for name, words in SKIES.items() if words == found["sky"]), "")
    named = tuple(Thing(name, colour) for colour, name in things)
    scene = Scene(named, found["relation"], found["place"], sky)
    known = (
        all(t.name in OBJECTS and t.colour in COLOURS for t in scene.things)
        and scene.place in PLACES
        and sky in SKIES
    )
    return scene if known and scene.caption == caption else None


ScenePredicate = Callable[[Scene], bool]


def random_scene(rng: np.random.Generator, scenes: ScenePredicate | None = None) -> Scene:
    """One scene drawn by `rng`, redrawn until `scenes` (a wish such as "only at night") holds.

    Things of a pair differ in object and in colour.

    Raises:
        ValueError: no scene of `MAX_SCENE_DRAWS` satisfied `scenes`.
    """
    colours = tuple(COLOURS)
    for _ in range(MAX_SCENE_DRAWS):
        count = int(rng.integers(1, 3))
        names = rng.choice(len(OBJECTS), size=count, replace=False)
        paints = rng.choice(len(colours), size=count, replace=False)
        relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
        place = PLACES[int(rng.integers(len(PLACES)))]
        sky = tuple(SKIES)[int(rng.integers(len(SKIES)))]
        things = tuple(
            Thing(OBJECTS[int(name)], colours[int(paint)])
            for name, paint in zip(names, paints, strict=True)
        )
        scene = Scene(things, relation if count == 2 else None, place, sky)
        if scenes is None or scenes(scene):
            return scene
    raise ValueError(
        f"no scene of {MAX_SCENE_DRAWS} drawn satisfied the `scenes` predicate: "
        "it must hold for at least some scenes of the world"
    )
