"""The blind choice page: pairs of pictures in random order, without names, one file to open.

Nothing in it says which checkpoint drew a picture. Whoever looks through it saves a small JSON file
of choices; which side was whose is known only to who can draw the same random order again.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nsync_pipeline.report.pictures import Picture

FOLDER = Path(__file__).parent
FORMAT = "nsync-choices-2"
"""What a choices file says it is."""


@dataclass(frozen=True)
class BlindPair:
    """One question."""

    id: str  # says nothing of who drew what
    caption: str
    left: Picture
    right: Picture


@dataclass(frozen=True)
class BlindPage:
    """All that the page shows."""

    style: str
    page_id: str  # of the two sets of pictures
    asked: int  # at most so many pairs were asked for
    reference: tuple[Picture, ...]  # real pictures of the style
    pairs: tuple[BlindPair, ...]


def render_blind_page(page: BlindPage) -> str:
    """The HTML of ``page``; it needs nothing besides itself."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("blind_page.html").render(
        page=page,
        pairs=Markup(_script_json([asdict(pair) for pair in page.pairs])),
        identity=Markup(
            _script_json(
                {
                    "format": FORMAT,
                    "style": page.style,
                    "page": page.page_id,
                    "asked": page.asked,
                }
            )
        ),
    )


def _script_json(content: object) -> str:
    """JSON that may stand inside a <script>: no caption can end it."""
    text = json.dumps(content, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
