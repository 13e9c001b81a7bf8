"""What is trained on top of the frozen base."""

from pydantic import Field

from nsync_pipeline.strict import Section


class LoraSettings(Section):
    """Low-rank adapters on the denoiser (PEFT)."""

    rank: int = Field(default=8, ge=1, le=1024, description="of the two factors")
    alpha: float = Field(default=8.0, gt=0, le=4096, description="scale is alpha / rank")
    targets: tuple[str, ...] | None = Field(
        default=None, description="name endings of the adapted layers; the family's own where null"
    )


class TextualInversionSettings(Section):
    """Token vectors of the style's own, in every text encoder; the rest of the tables is frozen."""

    vectors: int = Field(
        default=1, ge=1, le=32, description="a text encoder; each takes one token of the prompt"
    )
    initializer: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="words the vectors start from; the style's generic_style where null",
    )
