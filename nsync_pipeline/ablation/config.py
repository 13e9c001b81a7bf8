"""What is compared on a style: variants written out, a grid of settings, or both."""

from typing import Annotated

from pydantic import Field, ValidationError, field_validator, model_validator

from nsync_pipeline.ablation.settings import Value, require_setting, with_setting
from nsync_pipeline.strict import Section
from nsync_pipeline.training.config import VariantConfig


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
