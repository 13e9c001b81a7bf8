"""How captions become content-only."""

from pydantic import Field

from nsync_pipeline.strict import Section

STYLE_WORDS = (
    "oil painting", "painting", "watercolor", "watercolour", "illustration", "drawing", "sketch",
    "etching", "engraving", "woodblock print", "woodcut", "print", "artwork", "canvas",
    "impressionist", "impressionism", "brushstrokes", "in the style of",
)  # fmt: skip


class CaptioningConfig(Section):
    """``captioning`` in params.yaml."""

    style_words: tuple[str, ...] = Field(
        default=STYLE_WORDS,
        description="words and phrases that name a style or a medium, taken out of every caption",
    )
