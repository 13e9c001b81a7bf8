"""Which pictures are drawn of the captions that were held out."""

from pydantic import Field

from nsync_pipeline.drawing.config import SamplerConfig
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.settings import Section, StageSettings, of_params


class GenerationConfig(Section):
    """``generation`` in params.yaml."""

    prompts: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="how many test captions are drawn (the first by id); all where null",
    )
    images_per_prompt: int = Field(default=1, ge=1, le=1000, description="pictures a test caption")
    sampler: SamplerConfig = SamplerConfig()


class SamplesSettings(StageSettings):
    """What the stage ``generation`` reads."""

    seed: int = of_params("seed")
    placeholder: str = of_params("styles.{style}.placeholder")
    base_model: BaseModelConfig = of_params("base_model")
    generation: GenerationConfig = of_params("generation")


class BaseSamplesSettings(StageSettings):
    """What the stage ``base_generation`` reads."""

    seed: int = of_params("seed")
    generic_style: str = of_params("styles.{style}.generic_style")
    base_model: BaseModelConfig = of_params("base_model")
    generation: GenerationConfig = of_params("generation")
