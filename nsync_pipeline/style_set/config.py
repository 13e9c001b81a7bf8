"""Where a style's pictures come from, and what is taken into its style set."""

from typing import Any, Literal

from pydantic import Field

from nsync_pipeline.adaptation.saved_steps import ChosenStep
from nsync_pipeline.settings import Phrase, Section, StageSettings, later, of_params


class StyleSource(Section):
    """Where the pictures of a style come from: a part of its entry of ``styles`` in params.yaml."""

    source: str = Field(
        description="`folder`: the pictures in sources/<style>/; `sketchbook:<held-out style>`; or "
        "`sketchbook:<held-out style>+<confound>`: training pictures that all share something "
        "beside their style (night, water, houses, red, composition), which no test picture shows"
    )
    pictures: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="how many to draw; only with a sketchbook source, and needed there",
    )
    test_pictures: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="only with a sketchbook source: draw so many more for the test split, and "
        "train on all `pictures`; null: `pictures` are split by style_set.test_fraction; needed "
        "with a confound",
    )
    excluded: tuple[str, ...] = Field(
        default=(),
        description="pictures that are left out, by their names in sources/<style>; the files stay",
    )


class StyleConfig(StyleSource):
    """One entry of ``styles`` in params.yaml."""

    placeholder: Phrase = Field(
        default="sks",
        min_length=1,
        max_length=64,
        description="the word that names the style in prompts; taken out of its captions, as the "
        "style's own name is",
    )
    generic_style: Phrase = Field(
        default="painting",
        min_length=1,
        max_length=64,
        description="the class word the negatives are drawn in: painting, illustration, animation",
    )
    known_as: Phrase | None = later(
        default=None,
        min_length=1,
        max_length=64,
        description="the name by which the base may know the style already, as the artist's: the "
        "evaluation and the report show the untrained base asked for it, too; taken out of the "
        "captions, as style_words are",
    )
    style_words: tuple[Phrase, ...] = Field(
        default=(),
        description="words taken out of this style's captions besides captioning.style_words",
    )
    rights: str | None = Field(
        default=None,
        pattern=r"\S",
        max_length=4000,
        description="why its pictures may be used for training, in your words; the model card of "
        "`nsync export` says it",
    )
    license: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9.-]*$",
        max_length=64,
        description="of what is exported, as the hub names it: cc-by-4.0, openrail, other",
    )
    use_steps: dict[str, ChosenStep] = Field(
        default={},
        description="by training (`nsync-0`): which of the weights that it saved on the way are "
        "drawn with, measured and exported; else its last; `nsync choose` writes it",
    )


class StyleSetConfig(Section):
    """``style_set`` in params.yaml."""

    test_fraction: float = Field(
        default=0.25, gt=0, lt=1, description="share of the pictures held out of training"
    )
    min_side: int = Field(
        default=64, ge=8, le=4096, description="pixels; a file with a shorter side is refused"
    )
    max_megapixels: float = Field(
        default=100.0,
        gt=0,
        le=1000.0,
        description="10^6 pixels; a larger file is refused before it is decoded",
    )
    uncaptioned: Literal["keep", "skip"] = Field(
        default="keep",
        description="a picture without a caption: kept, so that captioning.model describes it, or "
        "left out of the set",
    )
    near_duplicates: Literal["keep", "drop"] = Field(
        default="drop",
        description="of pictures that look the same, keep all (in one split) or only the first "
        "by name",
    )
    on_bad_picture: Literal["error", "skip"] = Field(
        default="error", description="a file that cannot be used stops the stage, or is left out"
    )


class StyleSetSettings(StageSettings):
    """What the stage ``style_set`` reads."""

    seed: int = of_params("seed")
    style: StyleSource = of_params("styles.{style}")
    style_set: StyleSetConfig = of_params("style_set")

    def identity(self) -> dict[str, Any]:
        """Without ``excluded`` where nothing is."""
        content = super().identity()
        if not self.style.excluded:
            del content["style"]["excluded"]
        return content
