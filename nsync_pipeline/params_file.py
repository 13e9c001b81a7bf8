"""Adding a style to the text of ``params.yaml``: every other byte of it stays as it is."""

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from nsync_pipeline.errors import ParamsError


def with_style(text: str, name: str, entry: Mapping[str, Any]) -> str:
    """``text`` with ``entry`` as the last style of its section ``styles``.

    The lines are put in right behind the last style, indented as the styles there are; comments,
    order, quotes and line ends of all other lines stay. (Writing the whole file anew would move the
    comments that stand between sections.)

    Raises:
        ParamsError: the styles are not written as a block, a style a line; the message has the
            lines to put in by hand.
    """
    loaded = YAML().load(text)
    styles = loaded["styles"]
    first = next(iter(styles))
    line, column = styles.lc.key(first)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    written = _written(name, entry, column, _inner_indent(styles[first], column))
    at = _end_of_block(lines, line, column)
    if at == len(lines) and lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += newline
    lines[at:at] = [f"{row}{newline}" for row in written]
    changed = "".join(lines)
    if not _is(changed, loaded, name, entry):
        raise ParamsError(
            "params.yaml: the styles are written in a way that no style can be added to without "
            "rewriting them. Put these lines under `styles:` yourself:\n" + "\n".join(written)
        )
    return changed


def _inner_indent(style: Any, column: int) -> int:
    if isinstance(style, CommentedMap) and style:
        inner: int = style.lc.key(next(iter(style)))[1]
        if inner > column:
            return inner - column
    return 2


def _written(name: str, entry: Mapping[str, Any], column: int, indent: int) -> list[str]:
    yaml = YAML()
    yaml.indent(mapping=indent, sequence=indent + 2, offset=indent)
    yaml.width = 4096
    out = io.StringIO()
    yaml.dump({name: dict(entry)}, out)
    return [" " * column + row for row in out.getvalue().splitlines()]


def _end_of_block(lines: list[str], first: int, column: int) -> int:
    """The line behind the last one of the block that starts at ``first``, comments not counted."""
    end = first + 1
    for number in range(first, len(lines)):
        text = lines[number].strip()
        if not text or text.startswith("#"):
            continue
        if len(lines[number]) - len(lines[number].lstrip(" ")) < column:
            break
        end = number + 1
    return end


def _is(changed: str, before: Any, name: str, entry: Mapping[str, Any]) -> bool:
    try:
        after = YAML(typ="safe", pure=True).load(changed)
    except YAMLError:
        return False
    plain = YAML(typ="safe", pure=True).load(_dumped(before))
    plain["styles"][name] = {k: list(v) if isinstance(v, tuple) else v for k, v in entry.items()}
    return bool(after == plain) and list(after["styles"]) == list(plain["styles"])


def _dumped(content: Any) -> str:
    out = io.StringIO()
    YAML().dump(content, out)
    return out.getvalue()
