"""What is compared on a style: variants written out, a grid of settings, or both."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from nsync_pipeline.contrast.config import SETTINGS, ContrastConfig
from nsync_pipeline.settings import Section
from nsync_pipeline.training.config import TrainingConfig, VariantConfig

Value = bool | int | float | str | None
"""What a grid can set: everything but lists and sections."""

Flat = dict[str, Any]
"""Settings by dotted name; a section that is null is one value."""

ONLY_WITH_NEGATIVES = frozenset({"shared_noise", "negatives_of", "branches"})
"""What a training without negatives, which has one branch, does not do differently."""

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
    if rule == "none":
        idle |= ONLY_WITH_NEGATIVES
    idle |= {name for name, (choice, value) in ONLY_WITH.items() if settings[choice] != value}
    if settings.get("textual_inversion", "") is None:
        idle.add("embedding_learning_rate")
    if not settings.get("lora.text_encoder"):
        idle.add("text_encoder_learning_rate")
    return frozenset(idle)


def flat_settings(content: Mapping[str, Any], prefix: str = "") -> Flat:
    """``{"contrast": {"anchor": True}}`` as ``{"contrast.anchor": True}``."""
    flat: Flat = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def nested_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round."""
    nested: dict[str, Any] = {}
    for setting, value in flat.items():
        section = nested
        *parents, last = setting.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return nested


def with_setting(setting: str, value: Value) -> VariantConfig:
    """A variant that changes this setting alone.

    Raises:
        ValidationError: the setting does not take the value.
    """
    changes = nested_settings({setting: value})
    variant: VariantConfig = VariantConfig.model_validate({"update_rule": "none"} | changes)
    return variant


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
    for name, field in section.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if sections:
            yield from _names(f"{prefix}{name}.", sections[0])
        else:
            yield f"{prefix}{name}"


class AblationConfig(Section):
    """``ablation`` in params.yaml."""

    training_seeds: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...] = Field(
        default=(0, 1, 2), min_length=1,
        description="which trainings of each variant there are; three or more compare methods",
    )  # fmt: skip
    variants: dict[str, VariantConfig] = Field(
        default={}, description="written out, as in `variants`; they come before those of the grid"
    )
    grid: dict[str, Annotated[tuple[Value, ...], Field(min_length=1)]] = Field(
        default={},
        description="settings of `training` by dotted name, each with its values; every "
        "combination is a variant",
    )

    @field_validator("training_seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        twice = [seed for place, seed in enumerate(value) if seed in value[:place]]
        if twice:
            raise ValueError(f"{twice[0]} is named twice: each training has a seed of its own")
        return value

    @field_validator("grid")
    @classmethod
    def _settings(cls, value: dict[str, tuple[Value, ...]]) -> dict[str, tuple[Value, ...]]:
        for setting, choices in value.items():
            require_setting(setting)
            for choice in choices:
                try:
                    with_setting(setting, choice)
                except ValidationError as error:
                    why = str(error.errors()[0]["msg"])
                    raise ValueError(
                        f"{setting}: {choice!r} is not allowed: {why[0].lower()}{why[1:]}"
                    ) from error
        return value

    @model_validator(mode="after")
    def _something_is_compared(self) -> "AblationConfig":
        if not self.variants and not self.grid:
            raise ValueError("neither variants nor a grid: nothing would be trained")
        return self
