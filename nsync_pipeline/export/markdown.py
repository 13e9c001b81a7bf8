"""Texts of others in Markdown: what they say, and nothing that a reader would act on."""

import html
import re


def plain(text: object) -> str:
    """``text`` as words: no HTML, no links, pictures or code of its own."""
    escaped = html.escape(str(text), quote=False)
    return re.sub(r"([\\`\[\]~])", r"\\\1", escaped)


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
