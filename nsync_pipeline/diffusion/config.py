"""The loss: how it is weighted, and how its timesteps are drawn; the same in all branches."""

from typing import Literal

from pydantic import Field, model_validator

from nsync_pipeline.settings import Section, later


class ObjectiveConfig(Section):
    """``training.objective`` in params.yaml."""

    loss: Literal["mse", "huber"] = Field(
        default="mse", description="squared error, or pseudo-Huber (outliers weigh less)"
    )
    huber_delta: float = Field(
        default=0.1, gt=0, le=100, description="of huber: the error where squares turn into lines"
    )
    min_snr_gamma: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="min-SNR weighting of timesteps, 5 in its paper; null: none; not for flow",
    )
    zero_terminal_snr: bool = Field(
        default=False,
        description="rescale the base's noise so that its last timestep is noise alone; only with "
        "v_prediction, and what is drawn with the result is drawn so too",
    )
    timestep_sampling: Literal["uniform", "logit_normal", "shift", "style_friendly"] = Field(
        default="uniform",
        description="over the schedule, from the least noisy to the noisiest; style_friendly: "
        "mostly noise, where flow models settle style",
    )
    logit_mean: float = Field(
        default=0.0, ge=-10, le=10, description="of logit_normal; above 0: towards noise"
    )
    logit_std: float = Field(default=1.0, gt=0, le=10, description="of logit_normal")
    timestep_shift: float = Field(
        default=3.0, gt=0, le=100, description="of shift; above 1: towards noise"
    )

    timestep_min: float = later(
        0.0, ge=0, lt=1, description="share of the schedule, least noisy first, that is left out"
    )
    timestep_max: float = later(
        1.0,
        gt=0,
        le=1,
        description="share of the schedule that is drawn from, the rest is not",
    )

    @model_validator(mode="after")
    def _some_timesteps_are_left(self) -> "ObjectiveConfig":
        if self.timestep_min >= self.timestep_max:
            raise ValueError(
                f"timestep_min {self.timestep_min:g} is not below timestep_max "
                f"{self.timestep_max:g}: no timestep is left"
            )
        in_range = (self.timestep_min, self.timestep_max) != (0.0, 1.0)
        if in_range and self.timestep_sampling == "style_friendly":
            raise ValueError(
                "timestep_sampling style_friendly says itself how noisy the pictures are: leave "
                "timestep_min and timestep_max out"
            )
        return self

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> "ObjectiveConfig":
        chosen = {"loss": self.loss, "timestep_sampling": self.timestep_sampling}
        for name, (choice, value) in SETTINGS_OF.items():
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and chosen[choice] != value:
                raise ValueError(
                    f"{name} has no effect with {choice} {chosen[choice]}: leave it out, or set "
                    f"{choice} to {value}"
                )
        return self


SETTINGS_OF = {  # the choice each of these settings belongs to
    "huber_delta": ("loss", "huber"),
    "logit_mean": ("timestep_sampling", "logit_normal"),
    "logit_std": ("timestep_sampling", "logit_normal"),
    "timestep_shift": ("timestep_sampling", "shift"),
}
