"""How captions become content-only."""

from typing import Literal

from pydantic import Field, field_validator

from nsync_pipeline.strict import Section

STYLE_WORDS = (
    "oil on canvas", "oil painting", "painting", "watercolor", "watercolour", "illustration",
    "drawing", "sketch", "etching", "engraving", "woodblock print", "woodcut", "print", "artwork",
    "canvas", "impressionist", "impressionism", "brushstrokes", "in the style of",
)  # fmt: skip


class CaptioningConfig(Section):
    """``captioning`` in params.yaml."""

    style_words: tuple[str, ...] = Field(
        default=STYLE_WORDS,
        description="words and phrases that name a style or a medium, taken out of every caption",
    )
    too_long: Literal["cut", "error"] = Field(
        default="cut",
        description="a caption with more words than the text encoder takes together with the "
        "style: cut after the last word that fits, or refused",
    )

    @field_validator("style_words")
    @classmethod
    def _words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(word.strip() for word in value):
            raise ValueError("a style word must have letters in it; found an empty one")
        return value
