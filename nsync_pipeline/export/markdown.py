"""Texts of others in Markdown: what they say, and nothing that a reader would act on."""

import html
import re

OF_A_LINE = re.compile(r"((?:^|[\r\n])[ \t]*)(#|[-=_*](?=[-=_* \t]*(?:[\r\n]|$)))")
"""What makes a heading of its line or of the one above, or a rule."""


def plain(text: object) -> str:
    """``text`` as words: no HTML, no links, pictures, code, headings or rules of its own."""
    escaped = re.sub(r"([\\`\[\]~])", r"\\\1", html.escape(str(text), quote=False))
    return OF_A_LINE.sub(r"\1\\\2", escaped)


def cell(text: object) -> str:
    """The same in a table, on one line."""
    return plain(" ".join(str(text).split())).replace("|", "\\|")


def quoted(text: object) -> str:
    """The same as a quotation, line by line."""
    return "\n".join(f"> {plain(line)}" for line in str(text).splitlines())


def code(text: object) -> str:
    """``text`` on one line as code, whatever backticks are in it."""
    line = " ".join(str(text).split())
    fence = _fence(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def code_block(text: object, language: str = "") -> str:
    """``text`` as a block of code, whatever backticks are in it."""
    fence = _fence(str(text), 3)
    return f"{fence}{language}\n{text}\n{fence}"


def _fence(text: str, least: int) -> str:
    runs = (len(run) for run in re.findall("`+", text))
    return "`" * max(least, 1 + max(runs, default=0))
