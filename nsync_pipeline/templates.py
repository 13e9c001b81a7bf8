"""Templates filled in: of a page whatever comes from a user is escaped, and nothing is missing."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def templates_in(folder: Path, html: bool = True) -> Environment:
    """Those in ``folder``; of another text than ``html`` nothing is escaped."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )


def script_json(content: object) -> Markup:
    """JSON that may stand inside a <script>: no caption can end it."""
    text = json.dumps(content, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
