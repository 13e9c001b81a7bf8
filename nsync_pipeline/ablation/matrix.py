"""From the section ``ablation`` to the variants that are trained: each a training of its own."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from nsync_pipeline.ablation.config import (
    AblationConfig,
    Flat,
    Value,
    flat_settings,
    idle_settings,
    nested_settings,
)
from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.training.config import TrainingConfig, VariantConfig

MOST = 48
"""Characters of a variant's name."""

DIGEST = 8
"""Hex digits that stand for what a shortened name leaves out."""


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
    return f"{name[: MOST - DIGEST - 1].rstrip('_')}_{_digest(rule, changes)}"


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


def _digest(rule: str, changes: Mapping[str, Value]) -> str:
    content = json.dumps([rule, dict(changes)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:DIGEST]


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
        same = (name for name, found in self.effective.items() if found == effective)
        return next(same, None)

    def take(self, name: str, variant: VariantConfig, effective: Flat) -> None:
        self.variants[name] = variant
        self.effective[name] = effective


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
        found.take(name, variant, effective)
    if config.grid:
        for cell in _cells(config):
            _add_cell(found, cell, training, list(config.grid))
    if len(found.variants) < 2:
        there = ", ".join(found.variants) or "none"
        raise ValueError(f"ablation: two variants at least are compared, and there is: {there}")
    return Matrix(found.variants, tuple(_notes(found)))


def _cells(config: AblationConfig) -> Iterator[Flat]:
    for values in itertools.product(*config.grid.values()):
        yield dict(zip(config.grid, values, strict=True))


def _add_cell(found: _Found, cell: Flat, training: TrainingConfig, settings: list[str]) -> None:
    base = flat_settings(training.model_dump())
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
        twin = _named(found, rule, changes, settings)
        found.take(twin, variant, effective)
    found.folded.setdefault(twin, []).append(cell)
    found.idle.setdefault(twin, set()).update(name for name in cell if name in idle)


def _named(found: _Found, rule: str, changes: Flat, settings: list[str]) -> str:
    """A name for a combination that no variant has yet."""
    last = [name.rpartition(".")[2] for name in settings]
    name = variant_name(rule, changes, whole=len(set(last)) < len(last))
    return told_apart(name, rule, changes) if name in found.variants else name


def _effective(settings: TrainingConfig) -> Flat:
    """The settings that decide something."""
    flat = flat_settings(settings.model_dump())
    idle = idle_settings(flat)
    return {name: value for name, value in flat.items() if name not in idle}


def _notes(found: _Found) -> Iterator[str]:
    for name, cells in found.folded.items():
        if len(cells) > 1:
            idle = [setting for setting in cells[0] if setting in found.idle[name]]
            why = f": {_listed(idle)} would change nothing there" if idle else ""
            yield f"{name} stands for {len(cells)} combinations of the grid{why}"
    for why, cells in found.refused.items():
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in cells[0].items())
        more = f", and {len(cells) - 1} more" if len(cells) > 1 else ""
        yield f"left out of the grid ({shown}{more}): {why}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
