"""``docs/params.md`` from the schema: ``python -m tools.params_reference``.

Prints the page; ``> docs/params.md`` writes it. A test holds the two together.
"""

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nsync_pipeline.params import Params
from nsync_pipeline.settings_file import NAME
from nsync_pipeline.training.config import VariantConfig

INTRODUCTION = f"""\
# `params.yaml`, key by key

The one source of settings. Unknown keys, wrong types and values out of range are refused before
anything is computed, each with one line that names the key, the value and what is allowed. A key
that is left out has its default. DVC tracks the keys a stage reads, so a change computes those
stages anew that read it, and what depends on them.

`<style>` and `<variant>` are names of your own: `{NAME.pattern}`.

This page is generated: `python -m tools.params_reference > docs/params.md`.
"""

HEAD = ("| key | type | default | allowed | what it is |", "| --- | --- | --- | --- | --- |")

VARIANTS = """\
Any other key of `training` goes here too, with the same name, type and bounds, and changes it for
this variant alone. Sections are merged key by key: `lora: {rank: 4}` leaves the other keys of
`training.lora` as they are. A list is replaced as a whole. What a variant does not name is as in
`training`."""

BOUNDS: Mapping[type, tuple[str, str]] = {
    Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt"),
    MultipleOf: ("a multiple of", "multiple_of"), MinLen: ("length ≥", "min_length"),
    MaxLen: ("length ≤", "max_length"),
}  # fmt: skip

PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def reference() -> str:
    """The whole page, as Markdown."""
    tables = "\n".join("\n".join(table) for table in _tables("", Params))
    return f"{INTRODUCTION}\n{tables}"


def _tables(prefix: str, section: type[BaseModel]) -> Iterator[list[str]]:
    """The table of ``section`` and, after it, those of the sections in it."""
    if section is VariantConfig:
        rule = _row(f"{prefix}update_rule", VariantConfig.model_fields["update_rule"])
        yield [f"## `{prefix.rstrip('.')}`", "", *HEAD, rule, "", VARIANTS, ""]
        return
    inner: list[tuple[str, type[BaseModel]]] = []
    rows = []
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        if (nested := _nested(field.annotation)) is not None:
            of_names = get_origin(field.annotation) is dict
            inner.append((f"{key}.<{name.removesuffix('s')}>." if of_names else f"{key}.", nested))
            if type(None) in get_args(field.annotation):
                default = "`null`" if field.default is None else "its defaults"
                cells = (f"`{key}`", "section or `null`", default, "", field.description or "")
                rows.append("| " + " | ".join(cells) + " |")
        else:
            rows.append(_row(key, field))
    if rows:
        title = f"## `{prefix.rstrip('.')}`" if prefix else "## At the top"
        yield [title, "", *HEAD, *rows, ""]
    for inner_prefix, nested in inner:
        yield from _tables(inner_prefix, nested)


def _row(key: str, field: FieldInfo) -> str:
    description = field.description or ""
    cells = (f"`{key}`", type_of(field.annotation), default_of(field), _allowed(field), description)
    return "| " + " | ".join(cells) + " |"


def type_of(annotation: Any) -> str:
    """In words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, Union):
        return " or ".join(type_of(argument) for argument in arguments)
    if origin is tuple:
        first = arguments[0]
        is_section = isinstance(first, type) and issubclass(first, BaseModel)
        return f"list of {'sections' if is_section else type_of(first)}"
    if origin is dict:
        return f"mapping of {type_of(arguments[0])} to {type_of(arguments[1])}"
    if origin is Annotated:
        allowed = _allowed(arguments[1]) if isinstance(arguments[1], FieldInfo) else ""
        return f"{type_of(arguments[0])} ({allowed})" if allowed else type_of(arguments[0])
    return "`null`" if annotation is type(None) else PLAIN[annotation]


def default_of(field: FieldInfo) -> str:
    """As it is written in the file."""
    if field.is_required():
        return "*needed*"
    if field.default is None:
        return "`null`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, tuple):
        return ", ".join(f"`{item}`" for item in field.default) or "`[]`"
    return f"`{field.default}`"


def _allowed(field: FieldInfo) -> str:
    allowed = [
        f"{sign} {getattr(bound, attribute)}"
        for bound in field.metadata
        for kind, (sign, attribute) in BOUNDS.items()
        if isinstance(bound, kind)
    ]
    patterns = [getattr(bound, "pattern", None) for bound in field.metadata]
    allowed += [_pattern(str(pattern)) for pattern in patterns if pattern]
    return ", ".join(allowed)


def _pattern(pattern: str) -> str:
    escaped = pattern.replace("|", "\\|")  # a bar would end the table's cell
    return "not blank" if pattern == r"\S" else f"holds `{escaped}`"


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The section a field holds, alone, once a name, or optional."""
    if get_origin(annotation) is tuple:  # a list of sections is one value
        return None
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


if __name__ == "__main__":
    print(reference(), end="")
