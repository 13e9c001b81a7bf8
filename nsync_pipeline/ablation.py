"""What is compared on a style: variants written out, a grid of settings, or both.

From the section ``ablation`` to the variants that are trained: each a training of its own.
"""

import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from nsync_pipeline.contrast.config import SETTINGS, ContrastConfig
from nsync_pipeline.settings import Section, flat
from nsync_pipeline.training.config import TrainingConfig, VariantConfig

Value = bool | int | float | str | None
"""What a grid can set: everything but lists and sections."""

MOST_COMBINATIONS = 500  # of a grid: each is a training, and every command reads them

MOST_TRAININGS = 10_000

Flat = dict[str, Any]
"""Settings by dotted name; a section that is null is one value."""

ONLY_WITH_NEGATIVES = frozenset({"shared_noise", "negatives_of", "branches"})
"""What a training without negatives, which has one branch, does not do differently."""

IDLE_WITH: Mapping[str, frozenset[str]] = {
    "none": ONLY_WITH_NEGATIVES,
    "contrastive_target": frozenset({"shared_noise", "branches"}),
    "class_preservation": frozenset({"shared_noise", "negatives_of"}),
    "differential": ONLY_WITH_NEGATIVES,
}
"""What trainings by these rules do not do differently."""

ONLY_WITH: Mapping[str, tuple[str, str]] = {
    "contrast.running_decay": ("contrast.negative_estimate", "running_mean"),
    "contrast.basis_size": ("contrast.negative_estimate", "running_basis"),
    "objective.huber_delta": ("objective.loss", "huber"),
    "objective.logit_mean": ("objective.timestep_sampling", "logit_normal"),
    "objective.logit_std": ("objective.timestep_sampling", "logit_normal"),
    "objective.timestep_shift": ("objective.timestep_sampling", "shift"),
    "schedule_cycles": ("schedule", "cosine_with_restarts"),
    "schedule_power": ("schedule", "polynomial"),
}
"""The choice, and its value, without which a setting has no effect."""


def idle_settings(settings: Mapping[str, Any]) -> frozenset[str]:
    """Those of the flat ``settings`` that decide nothing, as the others are."""
    rule = settings["update_rule"]
    idle = {
        f"contrast.{name}" for name in ContrastConfig.model_fields if name not in SETTINGS[rule]
    }
    idle |= IDLE_WITH.get(rule, frozenset())
    idle |= {name for name, (choice, value) in ONLY_WITH.items() if settings[choice] != value}
    if settings.get("textual_inversion", "") is None:
        idle.add("embedding_learning_rate")
    if not settings.get("lora.text_encoder"):
        idle.add("text_encoder_learning_rate")
    return frozenset(idle)


def nested_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``settings.flat``."""
    nested: dict[str, Any] = {}
    for setting, value in settings.items():
        section = nested
        *parents, last = setting.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return nested


def require_setting(setting: str) -> None:
    """Raise ``ValueError`` where a training has no such setting, or it is a whole section."""
    known = list(_names("", TrainingConfig))
    if setting in known:
        return
    inner = [name for name in known if name.startswith(f"{setting}.")]
    if inner:
        raise ValueError(f"{setting} is a section: name one of its settings: {', '.join(inner)}")
    close = difflib.get_close_matches(setting, known, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"{setting} is no setting of `training`{meant}")


def _names(prefix: str, section: type[BaseModel]) -> Iterator[str]:
    for name, of_field in section.model_fields.items():
        kinds = (of_field.annotation, *get_args(of_field.annotation))
        sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if sections:
            yield from _names(f"{prefix}{name}.", sections[0])
        else:
            yield f"{prefix}{name}"


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    seen: set[int] = set()
    for seed in seeds:
        if seed in seen:
            raise ValueError(f"{seed} is named twice: each training has a seed of its own")
        seen.add(seed)
    return seeds


TrainingSeeds = Annotated[
    tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...],
    Field(min_length=1, max_length=1000),
    AfterValidator(_distinct),
]


class AblationConfig(Section):
    """``ablation`` in params.yaml."""

    training_seeds: TrainingSeeds = Field(
        default=(0, 1, 2),
        description="which trainings of each variant there are; three or more compare methods",
    )
    variants: dict[str, VariantConfig] = Field(
        default={}, description="written out, as in `variants`; they come before those of the grid"
    )
    grid: dict[str, Annotated[tuple[Value, ...], Field(min_length=1)]] = Field(
        default={},
        description="settings of `training` by dotted name, each with its values; every "
        "combination is a variant",
    )

    @field_validator("grid")
    @classmethod
    def _settings(cls, value: dict[str, tuple[Value, ...]]) -> dict[str, tuple[Value, ...]]:
        for setting, choices in value.items():
            require_setting(setting)
            for choice in choices:
                try:
                    changes = nested_settings({setting: choice})
                    VariantConfig.model_validate({"update_rule": "none"} | changes)
                except ValidationError as error:
                    why = str(error.errors()[0]["msg"])
                    raise ValueError(
                        f"{setting}: {choice!r} is not allowed: {why[0].lower()}{why[1:]}"
                    ) from error
        return value

    @model_validator(mode="after")
    def _something_is_compared(self) -> "AblationConfig":
        combinations = math.prod(map(len, self.grid.values()))
        if combinations > MOST_COMBINATIONS:
            raise ValueError(
                f"the grid has {combinations} combinations, and {MOST_COMBINATIONS} are allowed: "
                "name fewer values"
            )
        trainings = (combinations + len(self.variants)) * len(self.training_seeds)
        if trainings > MOST_TRAININGS:
            raise ValueError(f"{trainings} trainings are asked for: more than {MOST_TRAININGS}")
        if not self.variants and not self.grid:
            raise ValueError("neither variants nor a grid: nothing would be trained")
        return self


MOST = 48  # characters of a variant's name
DIGEST = 8  # hex digits that stand for what a shortened name leaves out


def variant_name(rule: str, changes: Mapping[str, Value], whole: bool = False) -> str:
    """``orthogonal_shared_noise``: the same for the same changes, whatever else a grid holds.

    Args:
        rule: the variant's update rule.
        changes: what else differs from ``training``, by dotted name.
        whole: names sections, too, where two settings of the grid have the same last name.
    """
    named = {name if whole else name.rpartition(".")[2]: v for name, v in changes.items()}
    for short in (False, True):
        name = "_".join([rule, *(_part(setting, value, short) for setting, value in named.items())])
        if len(name) <= MOST:
            return name
    return told_apart(name, rule, changes)


def told_apart(name: str, rule: str, changes: Mapping[str, Value]) -> str:
    """``name`` with a digest of what it stands for, where another variant has the same name."""
    content = json.dumps([rule, dict(changes)], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:DIGEST]
    return f"{name[: MOST - DIGEST - 1].rstrip('_')}_{digest}"


def _part(setting: str, value: Value, short: bool) -> str:
    """The setting and its value; in short, a value that is a word stands alone."""
    words = _words(setting)
    if value is True:
        return words
    if value is False or value is None:
        return f"no_{words}"
    if isinstance(value, str):
        return _words(value) if short else f"{words}_{_words(value)}"
    return f"{words}_{_words(f'{value:g}')}"


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


@dataclass(frozen=True)
class Matrix:
    """What is trained; the first variant is the one that the others are compared with."""

    variants: dict[str, VariantConfig]
    notes: tuple[str, ...]  # what of the grid is not trained, and why


@dataclass
class _Found:
    """The variants so far, with the settings that decide something in each."""

    variants: dict[str, VariantConfig] = field(default_factory=dict)
    effective: dict[str, Flat] = field(default_factory=dict)
    folded: dict[str, list[Flat]] = field(default_factory=dict)  # by variant: cells it stands for
    idle: dict[str, set[str]] = field(default_factory=dict)  # by variant: what had no effect there
    refused: dict[str, list[Flat]] = field(default_factory=dict)  # by reason

    def same_as(self, effective: Flat) -> str | None:
        """The variant that is the same training."""
        return next((n for n, found in self.effective.items() if found == effective), None)


def make_matrix(config: AblationConfig, training: TrainingConfig) -> Matrix:
    """The variants written out, then the combinations of the grid, the first setting slowest.

    A combination that trains the same as an earlier variant is not trained again, and one that a
    training cannot have is left out; ``notes`` tell both.

    Raises:
        ValidationError: a variant that is written out does not go with ``training``.
        ValueError: two variants written out are the same, or fewer than two variants are left.
    """
    found = _Found()
    for name, variant in config.variants.items():
        effective = _effective(variant.settings(training))
        twin = found.same_as(effective)
        if twin is not None:
            raise ValueError(f"ablation.variants: {name} and {twin} are the same training")
        found.variants[name], found.effective[name] = variant, effective
    if config.grid:
        for values in itertools.product(*config.grid.values()):
            _add_cell(found, dict(zip(config.grid, values, strict=True)), training)
    if len(found.variants) < 2:
        there = ", ".join(found.variants) or "none"
        raise ValueError(f"ablation: two variants at least are compared, and there is: {there}")
    return Matrix(found.variants, tuple(_notes(found)))


def _add_cell(found: _Found, cell: Flat, training: TrainingConfig) -> None:
    base = flat(training.model_dump())
    rule = cell.get("update_rule", training.update_rule)
    asked = {
        name: value
        for name, value in base.items()
        if not any(setting.startswith(f"{name}.") for setting in cell)  # a section that was null
    }
    asked |= cell | {"update_rule": rule}
    idle = idle_settings(asked)
    # Only what differs is written: so a variant stays what it is when the grid grows.
    changes = {
        name: value
        for name, value in cell.items()
        if name not in idle and (name not in base or base[name] != value)
    }
    changes.pop("update_rule", None)
    # What `training` sets for other rules is taken back where it has no meaning.
    defaults = {f"contrast.{n}": f.default for n, f in ContrastConfig.model_fields.items()}
    taken_back = {
        name: value for name, value in defaults.items() if name in idle and base[name] != value
    }
    content = nested_settings(changes | taken_back | {"update_rule": rule})
    variant = VariantConfig.model_validate(content)
    try:
        effective = _effective(variant.settings(training))
    except ValidationError as error:
        why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        found.refused.setdefault(why, []).append(cell)
        return
    twin = found.same_as(effective)
    if twin is None:
        last = [setting.rpartition(".")[2] for setting in cell]
        twin = variant_name(rule, changes, whole=len(set(last)) < len(last))
        if twin in found.variants:
            twin = told_apart(twin, rule, changes)
        found.variants[twin], found.effective[twin] = variant, effective
    found.folded.setdefault(twin, []).append(cell)
    found.idle.setdefault(twin, set()).update(name for name in cell if name in idle)


def _effective(settings: TrainingConfig) -> Flat:
    """The settings that decide something."""
    values = flat(settings.model_dump())
    idle = idle_settings(values)
    return {name: value for name, value in values.items() if name not in idle}


def _notes(found: _Found) -> Iterator[str]:
    for name, cells in found.folded.items():
        if len(cells) > 1:
            idle = [setting for setting in cells[0] if setting in found.idle[name]]
            why = f": {_listed(idle)} would change nothing there" if idle else ""
            yield f"{name} stands for {len(cells)} combinations of the grid{why}"
    for why, cells in found.refused.items():
        values = {n: v if isinstance(v, str) else json.dumps(v) for n, v in cells[0].items()}
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        more = f", and {len(cells) - 1} more" if len(cells) > 1 else ""
        yield f"left out of the grid ({shown}{more}): {why}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
