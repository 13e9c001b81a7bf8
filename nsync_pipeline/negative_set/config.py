"""Which negatives are drawn."""

from pydantic import Field

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.settings import Section, StageSettings, later, of_params


class NegativeSetConfig(Section):
    """``negative_set`` in params.yaml."""

    per_positive: int = Field(default=1, ge=1, le=64, description="negatives a training picture")
    sampler: SamplerConfig = SamplerConfig()
    resolution: int | None = later(
        None,
        ge=32,
        le=4096,
        multiple_of=8,
        description="side of the negatives in pixels, all square, which are then scaled for the "
        "training; null: the size their picture is trained at",
    )


class NegativeSetSettings(StageSettings):
    """What the stage ``negative_set`` reads."""

    seed: int = of_params("seed")
    generic_style: str = of_params("styles.{style}.generic_style")
    base_model: BaseModelConfig = of_params("base_model")
    negative_set: NegativeSetConfig = of_params("negative_set")
