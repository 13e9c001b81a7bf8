"""How captions become content-only."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.settings import Phrase, Section, StageSettings, later, of_params

STYLE_WORDS = (
    "oil on canvas", "oil painting", "painting", "watercolor", "watercolour", "illustration",
    "drawing", "sketch", "etching", "engraving", "woodblock print", "woodcut", "print", "artwork",
    "canvas", "impressionist", "impressionism", "brushstrokes", "in the style of",
)  # fmt: skip

QUESTION = (
    "Describe in at most {max_words} words what this picture shows, in the form of a prompt for an "
    "image generator. Name only what can be seen; do not name its style, medium or artist."
)
"""As the paper asks: briefly, in at most 25 words, in the form of a prompt."""


WAYS_OUT = (
    "write their captions in the studio (`nsync studio`), or in sources/{style} (picture.txt "
    "beside picture.jpg), or name the folder of a local model in captioning.model.name"
)
"""What can be done where no model can be asked."""


class TaggerConfig(Section):
    """``captioning.tagger`` in params.yaml: who names what is on the pictures without a caption."""

    section: ClassVar = "captioning.tagger"
    kind: ClassVar = "an image classifier"

    name: str = Field(
        min_length=1,
        description="an image classifier that transformers has (image-classification): a hub id or "
        "a local folder; ONNX files are not read",
    )
    revision: str | None = Field(
        default=None, description="the hub commit to pin; not used for a folder"
    )
    threshold: float = Field(
        default=0.35, ge=0, le=1, description="a label with a lower score is left out"
    )
    most: int = Field(default=30, ge=1, le=500, description="tags a picture, the surest")
    scores: Literal["sigmoid", "softmax"] = Field(
        default="sigmoid",
        description="of the model's logits: sigmoid for taggers, softmax for models that name one "
        "thing a picture",
    )
    without: tuple[str, ...] = Field(
        default=("rating:", "artist:"), description="labels that begin so are left out"
    )
    batch_size: int = Field(default=8, ge=1, le=512, description="pictures at a time")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of its weights; auto as base_model.dtype"
    )


class CaptionModelConfig(Section):
    """``captioning.model`` in params.yaml: who describes the pictures that have no caption."""

    section: ClassVar = "captioning.model"
    kind: ClassVar = "a vision-language model"

    name: str = Field(
        default="OpenGVLab/InternVL3-1B-hf",
        min_length=1,
        description="a vision-language model that transformers has (image-text-to-text): a hub id "
        "or a local folder",
    )
    revision: str | None = Field(
        default="014c0583a0d4bedf29fbe2dbff4f865eb998e171",
        description="the hub commit to pin; null where another name is given without one; not "
        "used for a folder",
    )
    question: str = Field(
        default=QUESTION,
        min_length=1,
        description="what it is asked of each picture; `{max_words}` stands for the number",
    )
    max_words: int = Field(default=25, ge=3, le=300, description="an answer with more words is cut")
    max_new_tokens: int = Field(
        default=80, ge=4, le=2048, description="tokens an answer has at most"
    )
    tiles: bool = Field(
        default=False,
        description="show it each picture in tiles as well, where the model knows tiles: finer, "
        "several times slower",
    )
    batch_size: int = Field(
        default=8, ge=1, le=512, description="pictures at a time; the captions do not depend on it"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of its weights; auto as base_model.dtype"
    )

    @model_validator(mode="before")
    @classmethod
    def _only_the_default_is_pinned(cls, value: Any) -> Any:
        """The default revision is the default name's: it means nothing to another model."""
        if isinstance(value, dict) and "name" in value and "revision" not in value:
            return value | {"revision": None}
        return value

    @property
    def asked(self) -> str:
        """The question with the number of words in it."""
        return self.question.replace("{max_words}", str(self.max_words))


class CaptioningConfig(Section):
    """``captioning`` in params.yaml."""

    model: CaptionModelConfig | None = Field(
        default=CaptionModelConfig(),
        description="captions the pictures that have none; null: such pictures are refused",
    )
    tagger: TaggerConfig | None = later(
        None, description="names what is on the pictures that have no caption, in model's place"
    )
    style_words: tuple[Phrase, ...] = Field(
        default=STYLE_WORDS,
        description="words and phrases that name a style or a medium, taken out of every caption",
    )
    several: str | None = later(
        None,
        min_length=1,
        max_length=8,
        description="what stands between the captions of a picture that has several, such as `|`: "
        "one of them is drawn each time it is trained on, the first is drawn and measured; null: "
        "none has",
    )
    prefix: Phrase | None = later(
        None,
        description="put before every caption, with a comma, after words of style are taken out; "
        "negatives and samples have it, too",
    )
    suffix: Phrase | None = later(None, description="likewise behind it, before the style")
    too_long: Literal["cut", "error"] = Field(
        default="cut",
        description="a caption with more words than the text encoder takes together with the "
        "style: cut after the last word that fits, or refused",
    )

    @property
    def asked(self) -> CaptionModelConfig | TaggerConfig | None:
        """What is asked of the pictures that have no caption; None: they are refused."""
        return self.tagger or self.model

    def whole(self, caption: str) -> str:
        """``caption`` with what stands before and behind every one."""
        return ", ".join(part for part in (self.prefix, caption, self.suffix) if part)


class CaptionedStyle(Section):
    """What of a style's entry in params.yaml its captions depend on."""

    placeholder: str
    generic_style: str
    style_words: tuple[str, ...]
    known_as: str | None = later(default=None)


class CaptionsSettings(StageSettings):
    """What the stage ``captions`` reads."""

    style: CaptionedStyle = of_params("styles.{style}")
    base_model: BaseModelConfig = of_params("base_model")
    captioning: CaptioningConfig = of_params("captioning")
