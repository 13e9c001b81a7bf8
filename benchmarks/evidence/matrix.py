"""What is compared: styles, sets of their pictures, methods, seeds; and the tables made of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STYLES = ("woodblock", "mosaic", "stained_glass")
SEEDS = (0, 1, 2, 3, 4)
LEARNING_RATE = 0.003
GUIDANCE = 3.0
"""Of what is drawn; a higher one keeps more content and less of the style."""


@dataclass(frozen=True)
class PictureSet:
    """Pictures that teach a style; what is asked for afterwards has nothing of the confound."""

    words: str
    pictures: int = 48
    confound: str | None = None


SETS: Mapping[str, PictureSet] = {
    "plain": PictureSet("48 pictures of all contents"),
    "night": PictureSet("48 pictures, all under a moon", confound="night"),
    "water": PictureSet("48 pictures, all on water", confound="water"),
    "houses": PictureSet("48 pictures, each of one house", confound="houses"),
    "red": PictureSet("48 pictures, each of one red thing", confound="red"),
    "composition": PictureSet(
        "48 pictures, all of one thing in front of another", confound="composition"
    ),
    **{
        f"few_{count}": PictureSet(f"{count} pictures of all contents", count)
        for count in (4, 8, 16, 32, 64)
    },
}


@dataclass(frozen=True)
class Method:
    """A way of training: what it changes in the shared settings."""

    words: str
    changes: Mapping[str, Any]
    longer: float = 1.0
    """So many times the steps of the others."""

    @property
    def negatives(self) -> int:
        """How many negatives of each picture it reads."""
        contrast: Mapping[str, int] = self.changes.get("contrast", {})
        return contrast.get("negatives", 1)


CONTRAST: dict[str, Any] = {"update_rule": "orthogonal"}
SHARED: dict[str, Any] = {"shared_noise": True}
INVERSION: dict[str, Any] = {
    "lora": None,
    "textual_inversion": {"vectors": 4},
    "learning_rate": 0.02,
}
METHODS: Mapping[str, Method] = {
    "lora": Method("plain LoRA", {"update_rule": "none"}),
    "lora_longer": Method("plain LoRA, at equal compute", {"update_rule": "none"}, longer=1.75),
    "nsync": Method("NSYNC, the paper's rule", CONTRAST),
    "nsync_anchor": Method("NSYNC with the anchor", {"update_rule": "orthogonal_anchor"}),
    "nsync_extended": Method(
        "NSYNC with shared noise, positive part and content dropout 0.3",
        CONTRAST | SHARED | {"content_dropout": 0.3, "contrast": {"positive_part": True}},
    ),
    "lora_dropout": Method(
        "plain LoRA with content dropout 0.3", {"update_rule": "none", "content_dropout": 0.3}
    ),
    "nsync_shared": Method("NSYNC with shared noise", CONTRAST | SHARED),
    "nsync_shared_dropout": Method(
        "NSYNC with shared noise and content dropout 0.3",
        CONTRAST | SHARED | {"content_dropout": 0.3},
    ),
    "nsync_positive": Method(
        "NSYNC with shared noise and positive part",
        CONTRAST | SHARED | {"contrast": {"positive_part": True}},
    ),
    "nsync_running": Method(
        "NSYNC extended, with content dropout 0.5 and the running mean of the negatives",
        CONTRAST
        | SHARED
        | {
            "content_dropout": 0.5,
            "contrast": {"positive_part": True, "negative_estimate": "running_mean"},
        },
    ),
    "nsync_metric": Method(
        "NSYNC extended, with content dropout 0.5, in the optimizer's metric",
        CONTRAST
        | SHARED
        | {"content_dropout": 0.5, "contrast": {"positive_part": True, "metric": "optimizer"}},
    ),
    "nsync_span": Method(
        "NSYNC extended, with the span of two negatives",
        CONTRAST
        | SHARED
        | {"content_dropout": 0.3, "contrast": {"positive_part": True, "negatives": 2}},
    ),
    "inversion": Method("textual inversion", INVERSION | {"update_rule": "none"}),
    "inversion_nsync": Method("textual inversion by the paper's rule", INVERSION | CONTRAST),
}


@dataclass(frozen=True, order=True)
class Trial:
    """One training, and what is drawn with it."""

    style: str
    set: str
    method: str
    seed: int

    @property
    def style_key(self) -> str:
        """The name of its style and set in ``params.yaml``."""
        return f"{self.style}_{self.set}"


@dataclass(frozen=True)
class Scale:
    """How large trials are."""

    name: str
    steps: int
    batch_size: int
    test_pictures: int
    """Other contents that are asked for: a picture each."""
    sampler_steps: int
    most_pictures: int | None = None
    """A set has no more; None: as many as it says."""


FULL = Scale("full", steps=100, batch_size=8, test_pictures=32, sampler_steps=10)
REDUCED = Scale("reduced", 8, batch_size=2, test_pictures=6, sampler_steps=4, most_pictures=6)
"""To see that everything runs; its figures say nothing."""


@dataclass(frozen=True)
class Table:
    """Which trials there are, in the order they are made: a seed of all before the next seed."""

    name: str
    scale: Scale
    styles: tuple[str, ...]
    sets: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]

    def trials(self) -> list[Trial]:
        return [
            Trial(style, of, method, seed)
            for seed in self.seeds
            for of in self.sets
            for style in self.styles
            for method in self.methods
        ]


BASELINES = ("lora", "lora_longer")
"""What the others are compared with."""
MAIN_METHODS = ("lora", "lora_longer", "nsync", "nsync_anchor", "nsync_extended")
TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table("main", FULL, STYLES, ("plain", "night"), MAIN_METHODS, SEEDS),
        Table("wide", FULL, STYLES, tuple(SETS), tuple(METHODS), SEEDS),
        Table("reduced", REDUCED, ("woodblock",), ("plain", "night"), ("lora", "nsync"), (0, 1)),
    )
}


def settings(trial: Trial, scale: Scale) -> dict[str, Any]:
    """What ``params.yaml`` says for ``trial``: one style, one variant."""
    of, method = SETS[trial.set], METHODS[trial.method]
    most = scale.most_pictures or of.pictures
    confound = "" if of.confound is None else f"+{of.confound}"
    style: dict[str, Any] = {
        "source": f"sketchbook:{trial.style}{confound}",
        "pictures": min(of.pictures, most),
        "test_pictures": scale.test_pictures,
    }
    attention = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    return {
        "styles": {trial.style_key: style},
        # A small world repeats its contents; each picture of a set counts.
        "style_set": {"near_duplicates": "keep"},
        "negative_set": {
            "per_positive": method.negatives,
            "sampler": {"scheduler": "dpm", "steps": 20, "guidance_scale": 5.0},
        },
        "training": {
            "steps": round(method.longer * scale.steps),
            "batch_size": scale.batch_size,
            "learning_rate": LEARNING_RATE,
            "lora": {"rank": 8, "alpha": 8.0, "targets": [*attention, "conv1", "conv2"]},
            "checkpoint_every": max(1, scale.steps // 2),
        },
        "variants": {trial.method: dict(method.changes)},
        "training_seeds": [trial.seed],
        "generation": {
            "sampler": {
                "scheduler": "dpm",
                "steps": scale.sampler_steps,
                "guidance_scale": GUIDANCE,
            }
        },
    }


def digest(settings: Mapping[str, Any]) -> str:
    """Of what a trial asks for; not of defaults, so that a new setting makes no result old.

    A confound counts as a key of its own, apart from its source: so it was written when the kept
    results were made.
    """
    styles = {name: _confound_apart(style) for name, style in settings["styles"].items()}
    asked = {**settings, "styles": styles}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _confound_apart(style: Mapping[str, Any]) -> dict[str, Any]:
    source, _, confound = style["source"].partition("+")
    apart = {"confound": confound} if confound else {}
    return {**style, "source": source, **apart}
