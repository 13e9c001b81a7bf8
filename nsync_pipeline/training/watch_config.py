"""What is looked at while a training runs."""

from pydantic import Field

from nsync_pipeline.strict import Section


class WatchConfig(Section):
    """``training.watch`` in params.yaml: pictures drawn on the way, and what scores them.

    It decides which pictures are drawn, and nothing of the training, but for ``training.keep``
    ``best``, which goes by the score.
    """

    every: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="optimizer steps between looks; there is one before the first step and one at "
        "the end, too; 0: none",
    )
    prompts: int = Field(
        default=6,
        ge=1,
        le=64,
        description="training captions drawn at each look, each at its own fixed seed",
    )
    steps: int = Field(default=12, ge=1, le=1000, description="denoising steps of DPM-Solver++ 2M")
    guidance_scale: float = Field(
        default=5.0, ge=1.0, le=50.0, description="of classifier-free guidance; 1 is none"
    )
    extractor: str | None = Field(
        default="sketchbook",
        min_length=1,
        description="what scores the style, as `evaluation.extractor`; null: pictures without a "
        "score",
    )
    extractor_revision: str | None = Field(default=None, description="the hub revision to pin")
