"""The report's templates, filled in: a page that needs nothing besides itself, and its charts."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from nsync_pipeline.report.figures import percent, shown
from nsync_pipeline.report.words import difference, explained
from nsync_pipeline.templates import templates_in

FOLDER = Path(__file__).parent
TEMPLATES = templates_in(FOLDER)
TEMPLATES.filters |= {
    # Our own style sheet and charts go in as they are; whatever comes from a user is escaped.
    "inline": Markup,
    "difference": difference,
    "explained": explained,
    "percent": percent,
    "shown": shown,
}


def render(**content: Any) -> str:
    """The report's HTML."""
    style_sheet = (FOLDER / "page.css").read_text(encoding="utf-8")
    return TEMPLATES.get_template("page.html").render(style_sheet=style_sheet, **content)


def draw(chart: str, **content: Any) -> str:
    """The SVG of one of the macros in ``charts.html``, in one line."""
    macro = getattr(TEMPLATES.get_template("charts.html").module, chart)
    return "".join(line.strip() for line in macro(**content).splitlines())
