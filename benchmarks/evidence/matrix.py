"""What is compared: styles, sets of their pictures, methods, seeds; and the tables made of them."""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from nsync_pipeline.sketchbook.folders import WEIGHTS_FOLDER

STYLES = ("woodblock", "mosaic", "stained_glass")
SEEDS = (0, 1, 2, 3, 4)
CHOOSING_SEEDS = (10, 11)
"""Settings are chosen on these, with other pictures, prompts and noise than is reported on."""
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
}
LOT = tuple(random.Random("evidence").sample(["water", "houses", "red", "composition"], 2))
"""The confounds that are reported on beside the night, on which settings were chosen: by lot."""


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
    "nsync_push": Method(
        "NSYNC with shared noise at strength 2, conflicts pushed away",
        CONTRAST | SHARED | {"contrast": {"strength": 2.0, "conflict": "push_away"}},
    ),
    "nsync_half": Method(
        "NSYNC, half of the projection removed", CONTRAST | {"contrast": {"strength": 0.5}}
    ),
    "nsync_every_4": Method(
        "NSYNC with the negatives in every fourth step, their running mean between",
        CONTRAST | {"contrast": {"negative_every": 4, "negative_estimate": "running_mean"}},
    ),
    "safeguarded": Method(
        "safeguarded ascent on the negatives (SDPO), margin 0.5",
        {"update_rule": "safeguarded"} | SHARED | {"contrast": {"margin": 0.5}},
    ),
    "preference": Method(
        "Diffusion-DPO with the plain loss, beta 6",
        {"update_rule": "preference"} | SHARED | {"contrast": {"beta": 6.0, "supervised": 1.5}},
    ),
    "preference_auto": Method(
        "Diffusion-DPO with the plain loss, automatic beta",
        {"update_rule": "preference"} | SHARED,
    ),
    "preference_safe": Method(
        "Diffusion-DPO with the plain loss, automatic beta, safeguarded by margin 0.5",
        {"update_rule": "preference"} | SHARED | {"contrast": {"margin": 0.5}},
    ),
    "prior_preservation": Method(
        "prior preservation: the negatives at their own prompts",
        {"update_rule": "prior_preservation"},
    ),
    "class_preservation": Method(
        "class preservation: the base's predictions at the generic prompt",
        {"update_rule": "class_preservation"},
    ),
    "contrastive_target": Method(
        "paired contrastive flow matching, weight 0.2",
        {"update_rule": "contrastive_target", "contrast": {"repulsion": 0.2}},
    ),
    "slider": Method(
        "visual slider: the negatives at mirrored weights", {"update_rule": "slider"} | SHARED
    ),
    "negative_aware": Method(
        "DiffusionNFT: the negatives by mirrored predictions",
        {"update_rule": "negative_aware"} | SHARED,
    ),
    "differential": Method(
        "differential LoRA: on top of one that learned the negatives",
        {"update_rule": "differential"},
    ),
}


@dataclass(frozen=True, order=True)
class Tuning:
    """How a method is trained where its own settings are searched."""

    rate: float = LEARNING_RATE
    steps: float = 1.0  # times those of the scale

    @property
    def name(self) -> str:
        """``rate_0_003_steps_1``, a part of a variant's name."""
        return f"rate_{self.rate:g}_steps_{self.steps:g}".replace(".", "_").replace("-", "m")


AS_SET = Tuning()
ORDINARY = "ordinary"
DRAWINGS: Mapping[str, Mapping[str, Any]] = {
    ORDINARY: {},
    "s_1_5": {"lora_strength": 1.5},
    "be_0_5": {"form": "base_empty", "lora_strength": 0.5},
    "be_0_67": {"form": "base_empty", "lora_strength": 0.67},
    "d_1_5": {"form": "difference", "weight": 1.5},
    "d_2": {"form": "difference", "weight": 2.0},
}
"""``generation.guidance``, by name: one training is drawn at many."""


@dataclass(frozen=True, order=True)
class Trial:
    """One training, and what is drawn with it in one way."""

    style: str
    set: str
    method: str
    seed: int
    tuning: Tuning = AS_SET
    drawing: str = ORDINARY

    @property
    def variant(self) -> str:
        """The name of the method at its tuning in ``params.yaml``."""
        return self.method if self.tuning == AS_SET else f"{self.method}_{self.tuning.name}"

    @property
    def entry(self) -> str:
        """What is compared: the method, and how it is drawn where not as it was trained."""
        return self.method if self.drawing == ORDINARY else f"{self.method} {self.drawing}"

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
    tunings: tuple[Tuning, ...] = (AS_SET,)
    further: Mapping[str, tuple[Tuning, ...]] = field(default_factory=dict)
    """Beside ``tunings``, by method, in the first of the styles."""
    drawings: tuple[str, ...] = (ORDINARY,)
    chosen: Mapping[str, tuple[Tuning, tuple[str, ...]]] = field(default_factory=dict)
    """By method, what it is trained and drawn at, in the place of all combinations."""
    halved: Mapping[tuple[str, int], tuple[Tuning, ...]] = field(default_factory=dict)
    """By method and seed, what of ``tunings`` is tried there."""

    def trials(self) -> list[Trial]:
        """All drawings of a training are together."""
        return [
            Trial(style, of, method, seed, tuning, drawing)
            for seed in self.seeds
            for of in self.sets
            for style in self.styles
            for method in self.methods
            for tuning, drawings in self._ways(style, method, seed)
            for drawing in drawings
        ]

    def _ways(self, style: str, method: str, seed: int) -> list[tuple[Tuning, tuple[str, ...]]]:
        if self.chosen:
            return [self.chosen[method]] if method in self.chosen else []
        further = self.further.get(method, ()) if style == self.styles[0] else ()
        tunings = self.halved.get((method, seed), (*self.tunings, *further))
        return [(tuning, self.drawings) for tuning in tunings]


SEARCHED = (
    "lora", "nsync", "nsync_extended", "preference", "lora_dropout", "prior_preservation",
    "lora_longer", "nsync_anchor", "safeguarded", "preference_auto", "preference_safe",
    "nsync_push", "nsync_half", "nsync_every_4", "class_preservation", "contrastive_target",
    "slider", "negative_aware", "differential",
)  # fmt: skip
"""The methods whose own learning rate and drawing are searched, each over the same grid."""
TUNINGS = (AS_SET, Tuning(0.01))
FURTHER = dict.fromkeys(("lora", "lora_longer"), (Tuning(0.02),))
"""The baselines alone have a third rate, in one style: the second, their better one, is no edge."""
UNSEEN_STYLE = "pointillist"
"""No setting was chosen on it."""
TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table(
            "search",
            FULL,
            STYLES,
            ("night",),
            SEARCHED,
            CHOOSING_SEEDS,
            TUNINGS,
            FURTHER,
            tuple(DRAWINGS),
        ),
        # Its methods, and what they are trained and drawn at, are what was chosen of the search.
        Table("chosen", FULL, (*STYLES, UNSEEN_STYLE), ("night", "plain", *LOT), SEARCHED, SEEDS),
        Table(
            "reduced",
            REDUCED,
            ("woodblock",),
            ("plain", "night"),
            ("lora", "nsync"),
            (0, 1),
            drawings=(ORDINARY, "d_1_5"),
        ),
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
    # Another root seed: other pictures, captions, prompts and noise.
    root = {"seed": 1} if trial.seed in CHOOSING_SEEDS else {}
    guidance = DRAWINGS[trial.drawing]
    drawn = {"guidance": dict(guidance)} if guidance else {}
    return {
        **root,
        "styles": {trial.style_key: style},
        # A small world repeats its contents; each picture of a set counts.
        "style_set": {"near_duplicates": "keep"},
        "negative_set": {
            "per_positive": method.negatives,
            "sampler": {"scheduler": "dpm", "steps": 20, "guidance_scale": 5.0},
        },
        "training": {
            "steps": round(method.longer * trial.tuning.steps * scale.steps),
            "batch_size": scale.batch_size,
            "learning_rate": trial.tuning.rate,
            "autocast": True,  # seven tenths of the time, where the processor has bfloat16
            "lora": {"rank": 8, "alpha": 8.0, "targets": [*attention, "conv1", "conv2"]},
            "checkpoint_every": max(1, scale.steps // 2),
        },
        "variants": {trial.variant: dict(method.changes)},
        "training_seeds": [trial.seed],
        "generation": {
            "sampler": {
                "scheduler": "dpm",
                "steps": scale.sampler_steps,
                "guidance_scale": GUIDANCE,
                "dtype": "bfloat16",  # half the time, where the processor has it
            },
            **drawn,
        },
    }


def digest(settings: Mapping[str, Any]) -> str:
    """Of what a trial asks for, and of the base; not of defaults: a new one makes nothing old."""
    asked = json.dumps({**settings, "base": _base()}, sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


@cache
def _base() -> str:
    """Of the files of the embedded base and of the judges."""
    whole = hashlib.sha256()
    for file in sorted(WEIGHTS_FOLDER.rglob("*.safetensors")):
        whole.update(file.read_bytes())
    return whole.hexdigest()
