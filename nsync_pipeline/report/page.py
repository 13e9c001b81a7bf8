"""The report as one HTML page that needs nothing besides itself."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nsync_pipeline.pictures.embedded import Picture
from nsync_pipeline.report.charts import Chart
from nsync_pipeline.report.figures import Measured, TableRow

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Column:
    """A column of pictures: the real ones, the base's, a variant's."""

    name: str
    colour: int | None
    note: str  # a few words below the name


@dataclass(frozen=True)
class PictureRow:
    """One caption, drawn by everybody at the same seed."""

    caption: str
    seed: int
    pictures: tuple[Picture, ...]  # in the order of the columns


@dataclass(frozen=True)
class Pair:
    """Two pictures side by side."""

    left: Picture
    right: Picture
    text: str
    flagged: bool = False


@dataclass(frozen=True)
class VerdictCard:
    """One comparison in words and differences."""

    title: str
    verdict: str
    reason: str
    style_margin: str
    cmmd: str


@dataclass(frozen=True)
class Side:
    """One of two that people chose between."""

    name: str
    colour: int | None
    chosen: int  # how often


@dataclass(frozen=True)
class ChoiceCard:
    """What people chose between two."""

    title: str
    verdict: str  # as a verdict's, of the first
    said: str  # the same in a few words
    sides: tuple[Side, Side]
    ties: int
    chart: str
    reason: str
    counted: str


@dataclass(frozen=True)
class Choices:
    """All that people chose; without any, how to ask them."""

    cards: tuple[ChoiceCard, ...]
    not_counted: str  # about choices that are set aside; empty where there are none
    how_to_ask: str  # the command; empty where there is none


@dataclass(frozen=True)
class TrainingNote:
    """A warning of one training."""

    name: str
    colour: int
    text: str


@dataclass(frozen=True)
class FilmStrip:
    """What one variant drew on the way."""

    variant: str
    colour: int
    picture: Picture
    text: str


@dataclass(frozen=True)
class Facts:
    """A titled list of what was used."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """All that the page shows, in its order."""

    style: str
    headline: str
    lede: str
    ribbon: tuple[Picture, ...]
    honest_note: str | None
    warnings: tuple[str, ...]
    shown_training: str  # which training's pictures and curves are shown; empty where there is one
    columns: tuple[Column, ...]
    rows: tuple[PictureRow, ...]
    progress: tuple[tuple[str, int, str], ...]  # variant, colour, share of the way to real
    verdicts: tuple[VerdictCard, ...]
    paired_over: str
    primary: tuple[Chart, ...]
    choices: Choices
    table_columns: tuple[Measured, ...]
    table: tuple[TableRow, ...]
    readings: tuple[tuple[str, str], ...]
    pairs: tuple[Pair, ...]
    charts: tuple[Chart, ...]
    training_notes: tuple[TrainingNote, ...]
    strips: tuple[FilmStrip, ...]
    copies: tuple[Pair, ...]
    copies_text: str
    facts: tuple[Facts, ...]
    settings: str
    picture_side: int


def render(page: Page) -> str:
    """The HTML of ``page``."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Our own style sheet and charts go in as they are; whatever comes from a user is escaped.
    environment.filters["inline"] = Markup
    style_sheet = (FOLDER / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(page=page, style_sheet=style_sheet)
