"""What the report shows."""

from pydantic import Field

from nsync_pipeline.adaptation.saved_steps import ChosenStep
from nsync_pipeline.settings import CHOICES_MADE, Section, StageSettings, of_params


class ReportConfig(Section):
    """``report`` in params.yaml."""

    rows: int = Field(default=8, ge=1, le=64, description="test prompts shown side by side")
    picture_side: int = Field(
        default=192, ge=32, le=1024, description="pixels at which a picture is shown"
    )


class ReportSettings(StageSettings):
    """What the stage ``report`` reads."""

    seed: int = of_params("seed")
    source: str = of_params("styles.{style}.source")
    placeholder: str = of_params("styles.{style}.placeholder")
    generic_style: str = of_params("styles.{style}.generic_style")
    variants: tuple[str, ...] = of_params("variants")
    training_seeds: tuple[int, ...] = of_params("training_seeds")
    bootstrap_draws: int = of_params("evaluation.bootstrap_draws")
    report: ReportConfig = of_params("report")
    use_steps: dict[str, ChosenStep] = of_params(CHOICES_MADE, came_later={})
