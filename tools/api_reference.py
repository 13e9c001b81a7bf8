"""``docs/api.md`` from the docstrings: ``python -m tools.api_reference``.

Prints the page; ``> docs/api.md`` writes it. A test holds the two together.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

import nsync_pipeline
from nsync_pipeline.contrast import rules
from tools.params_reference import default_of, type_of

INTRODUCTION = """\
# The library, name by name

What `from nsync_pipeline import ...` gives; [library.md](library.md) shows it in use. `import
nsync_pipeline` alone imports none of it, and no torch.

This page is generated: `python -m tools.api_reference > docs/api.md`.
"""

RULES = """\
The formulas are functions of `nsync_pipeline.contrast.rules`, over plain vectors of the shape (d,).
`Refiner` is tested equal to them."""

FIELD = re.compile(r"^    (\w+): ([^=#\n]+?)(?: = ([^#\n]+?))?(?:  # (.+))?$", re.MULTILINE)
"""A field of a dataclass, with its comment."""


def reference() -> str:
    """The whole page, as Markdown."""
    sections = ["\n".join(_section(name)) for name in nsync_pipeline.__all__]
    return "\n".join([INTRODUCTION, *sections])


def _section(name: str) -> Iterator[str]:
    value = getattr(nsync_pipeline, name)
    yield f"## `{name}`\n"
    if get_origin(value) is Literal:  # the update rules
        yield f"One of {', '.join(f'`{choice}`' for choice in get_args(value))}. {RULES}\n"
        for choice in get_args(value):
            yield from _function(choice, getattr(rules, choice))
    elif inspect.isfunction(value):
        yield from _text(value, value)
    else:
        yield from _class(name, value)


def _class(name: str, kind: type) -> Iterator[str]:
    settings = issubclass(kind, BaseModel)
    if settings or is_dataclass(kind):
        yield f"{_prose(inspect.getdoc(kind) or '')}\n"
        yield from ("| field | type | default | |", "| --- | --- | --- | --- |")
        yield from (f"| {' | '.join(cells)} |" for cells in _fields(kind))
        yield ""
    else:
        yield from _text(kind, kind.__init__)  # type: ignore[misc] # of this very class
    for method, function in vars(kind).items():
        shown = method == "__call__" or not method.startswith("_")
        if shown and inspect.isfunction(function) and not settings:
            yield from _function(f"{name}.{method}", function)


def _fields(kind: type) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and description, of a setting or a dataclass's field."""
    if issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield (
                f"`{name}`",
                type_of(field.annotation),
                default_of(field),
                _cell(field.description or ""),
            )
        return
    names = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    for name, annotation, default, comment in FIELD.findall(inspect.getsource(kind)):
        if name in names:
            shown = f"`{default}`" if default else ""
            yield f"`{name}`", f"`{_cell(annotation)}`", shown, _cell(comment)


def _function(name: str, function: Any) -> Iterator[str]:
    yield f"### `{name}`\n"
    yield from _text(function, function)


def _text(documented: Any, called: Any) -> Iterator[str]:
    """The signature, as it is written but for ``self``, and the docstring."""
    lines = textwrap.dedent(inspect.getsource(called)).splitlines()
    (node,) = ast.parse("\n".join(lines)).body
    assert isinstance(node, ast.FunctionDef)
    signature = "\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1]).removesuffix(":")
    signature = re.sub(r"\bself,\s*|\bself(?=\))", "", signature)
    if called is not documented:  # a class, by its constructor
        name = documented.__name__
        signature = signature.replace("def __init__", name).removesuffix(" -> None")
    yield f"```python\n{signature}\n```\n"
    yield f"{_prose(inspect.getdoc(documented) or '')}\n"


def _prose(docstring: str) -> str:
    """Markdown: the items of ``Args`` and ``Raises`` as lists."""
    text = re.sub(r"^(Args|Raises):$", r"**\1**\n", docstring, flags=re.MULTILINE)
    text = re.sub(r"^    (\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    return re.sub(r"^ {4,}", "  ", text.replace("``", "`"), flags=re.MULTILINE)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
