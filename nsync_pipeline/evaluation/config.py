"""What is measured, on which features."""

from pydantic import Field

from nsync_pipeline.drawing.config import DrawnWays
from nsync_pipeline.metrics.verdict import GuardrailConfig
from nsync_pipeline.settings import Section, StageSettings, of_params


class EvaluationConfig(Section):
    """``evaluation`` in params.yaml."""

    extractor: str = Field(
        default="sketchbook", min_length=1,
        description="`sketchbook` (the embedded CLIP), or a local folder or hub id of a CLIP model",
    )  # fmt: skip
    extractor_revision: str | None = Field(default=None, description="the hub revision to pin")
    style_extractor: str | None = Field(
        default=None, min_length=1,
        description="of the style margin: a folder or hub id of CSD, CLIP or DINOv2; null: the "
        "extractor",
    )  # fmt: skip
    style_extractor_revision: str | None = Field(default=None, description="the hub revision")
    likeness_extractor: str | None = Field(
        default=None, min_length=1,
        description="of spread, near-copies and diversity: a folder or hub id of DINOv2, CLIP or "
        "CSD; null: the extractor",
    )  # fmt: skip
    likeness_extractor_revision: str | None = Field(default=None, description="the hub revision")
    inception_extractor: str | None = Field(
        default=None, min_length=1,
        description="of KID and FID: a file, folder or hub id with the weights of FID's "
        "Inception-v3; null: the extractor",
    )  # fmt: skip
    inception_extractor_revision: str | None = Field(default=None, description="the hub revision")
    bootstrap_draws: int = Field(
        default=2000, ge=100, le=1_000_000, description="resamples for the 95 % intervals"
    )
    batch_size: int = Field(default=64, ge=1, le=4096, description="pictures a forward pass")
    copy_quantile: float = Field(
        default=0.01, gt=0, lt=1,
        description="of the real test-to-train distances: nearer than that counts as a copy",
    )  # fmt: skip
    guardrails: GuardrailConfig = GuardrailConfig()


class EvaluationSettings(StageSettings):
    """What the stage ``evaluation`` reads."""

    seed: int = of_params("seed")
    source: str = of_params("styles.{style}.source")
    device: str = of_params("base_model.device")
    variants: tuple[str, ...] = of_params("variants")
    training_seeds: tuple[int, ...] = of_params("training_seeds")
    known_as: str | None = of_params("styles.{style}.known_as", came_later=None)
    drawn: DrawnWays = of_params("generation", came_later=DrawnWays())
    evaluation: EvaluationConfig = of_params("evaluation")
