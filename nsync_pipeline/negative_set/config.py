"""Which negatives are drawn."""

from pydantic import Field

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.settings import Section, StageSettings, of_params


class NegativeSetConfig(Section):
    """``negative_set`` in params.yaml."""

    per_positive: int = Field(default=1, ge=1, le=64, description="negatives a training picture")
    sampler: SamplerConfig = SamplerConfig()


class NegativeSetSettings(StageSettings):
    """What the stage ``negative_set`` reads."""

    seed: int = of_params("seed")
    generic_style: str = of_params("styles.{style}.generic_style")
    base_model: BaseModelConfig = of_params("base_model")
    negative_set: NegativeSetConfig = of_params("negative_set")
