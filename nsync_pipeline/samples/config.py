"""Which pictures are drawn of the captions that were held out."""

from pydantic import Field, model_validator

from nsync_pipeline.adaptation.saved_steps import ChosenStep
from nsync_pipeline.drawing.config import DrawnWays, SamplerConfig, require_guidance
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.settings import CHOICES_MADE, Section, StageSettings, of_params


class DrawnCaptions(Section):
    """What of ``generation`` the base's samples have, too."""

    prompts: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="how many test captions are drawn (the first by id); all where null",
    )
    images_per_prompt: int = Field(default=1, ge=1, le=1000, description="pictures a test caption")
    sampler: SamplerConfig = SamplerConfig()


class GenerationConfig(DrawnWays, DrawnCaptions):
    """``generation`` in params.yaml."""

    @model_validator(mode="after")
    def _the_guidance_has_an_effect(self) -> "GenerationConfig":
        for way in self.ways:
            require_guidance(way, self.sampler.guidance_scale)
        return self


class SamplesSettings(StageSettings):
    """What the stage ``generation`` reads."""

    seed: int = of_params("seed")
    placeholder: str = of_params("styles.{style}.placeholder")
    base_model: BaseModelConfig = of_params("base_model")
    generation: GenerationConfig = of_params("generation")
    use_step: ChosenStep | None = of_params(f"{CHOICES_MADE}.{{training}}", came_later=None)


class BaseSamplesSettings(StageSettings):
    """What the stage ``base_generation`` reads."""

    seed: int = of_params("seed")
    generic_style: str = of_params("styles.{style}.generic_style")
    base_model: BaseModelConfig = of_params("base_model")
    generation: DrawnCaptions = of_params("generation")
    known_as: str | None = of_params("styles.{style}.known_as", came_later=None)
