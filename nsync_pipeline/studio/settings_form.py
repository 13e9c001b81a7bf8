"""The settings as a form, made from the schema: each key with its type, bounds and description."""

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nsync_pipeline.errors import ParamsError
from nsync_pipeline.params import Params
from nsync_pipeline.settings_file import parse_settings

MAIN = (
    "training.steps", "training.learning_rate", "training.batch_size", "training.lora.rank",
    "training.watch.every", "base_model.name", "base_model.resolution",
)  # fmt: skip
"""What most people set."""
SECTIONS = (
    "training", "base_model", "style_set", "captioning", "negative_set", "generation", "evaluation",
)  # fmt: skip
OF_STYLE = ("placeholder", "generic_style", "known_as", "style_words", "rights", "license")


class Input(StrEnum):
    """How a value is put in."""

    SWITCH = "switch"
    CHOICE = "choice"
    NUMBER = "number"
    TEXT = "text"
    LINES = "lines"  # a list of texts, one a line
    YAML = "yaml"  # another list, or what may be of several kinds: as it stands in params.yaml


@dataclass(frozen=True)
class Setting:
    """One key of params.yaml."""

    key: str  # dotted
    input: Input
    value: str  # as it is put in
    default: str
    description: str
    choices: tuple[str, ...] = ()
    low: str = ""
    high: str = ""
    may_be_empty: bool = False  # empty is null

    @property
    def is_default(self) -> bool:
        return self.value == self.default


@dataclass(frozen=True)
class SettingsGroup:
    """The keys of one section, those of the sections in it too."""

    title: str
    settings: tuple[Setting, ...]


def settings_groups(params: Params, style: str) -> list[SettingsGroup]:
    """All settings that a form has, section by section."""
    of_style = params.style(style)
    fields = type(of_style).model_fields
    own = tuple(
        _setting(f"styles.{style}.{name}", fields[name], getattr(of_style, name))
        for name in OF_STYLE
    )
    groups = [SettingsGroup(f"styles.{style}", own)]
    for name in SECTIONS:
        settings = tuple(_settings(name, getattr(params, name)))
        groups.append(SettingsGroup(name, settings))
    return groups


def _settings(prefix: str, section: BaseModel) -> Iterator[Setting]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _settings(f"{prefix}.{name}", value)
        else:
            yield _setting(f"{prefix}.{name}", field, value)


def _setting(key: str, field: FieldInfo, value: Any) -> Setting:
    kinds = get_args(field.annotation) if _is_union(field.annotation) else (field.annotation,)
    may_be_empty = type(None) in kinds
    (kind, *others) = [_plain(k) for k in kinds if k is not type(None)]
    bounds = {type(bound): bound for bound in field.metadata}
    choices: tuple[str, ...] = ()
    if not others and get_origin(kind) is tuple and _plain(get_args(kind)[0]) is str:
        way = Input.LINES
    elif others or not (kind in (bool, int, float, str) or get_origin(kind) is Literal):
        way = Input.YAML
    elif get_origin(kind) is Literal:
        way, choices = Input.CHOICE, tuple(str(choice) for choice in get_args(kind))
    else:
        ways = {bool: Input.SWITCH, int: Input.NUMBER, float: Input.NUMBER, str: Input.TEXT}
        way = ways[kind]
    default = None if field.is_required() else field.default
    return Setting(
        key, way, _shown(value, way), _shown(default, way), field.description or "", choices,
        low=_bound(bounds, ((Ge, "ge", ""), (Gt, "gt", "above "))),
        high=_bound(bounds, ((Le, "le", ""), (Lt, "lt", "below "))),
        may_be_empty=may_be_empty,
    )  # fmt: skip


def _plain(kind: Any) -> Any:
    """Without what ``Annotated`` asks of it besides: the schema sees to that."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (types.UnionType, Union)


def _bound(bounds: Mapping[type, Any], kinds: tuple[tuple[type, str, str], ...]) -> str:
    for kind, attribute, words in kinds:
        if kind in bounds:
            return f"{words}{getattr(bounds[kind], attribute):g}"
    return ""


def _shown(value: Any, way: Input) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if way is Input.LINES:
        return "\n".join(value)
    if isinstance(value, tuple | list):
        plain = [
            one.model_dump(exclude_defaults=True) if isinstance(one, BaseModel) else one
            for one in value
        ]
        return json.dumps(plain, ensure_ascii=False)
    if isinstance(value, BaseModel):
        return "its own section in params.yaml"
    if isinstance(value, float) and way is Input.NUMBER:
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def asked_values(
    groups: list[SettingsGroup], answers: Mapping[str, str], switches_shown: bool = True
) -> dict[str, Any]:
    """What the answers of a form change, by dotted key; ParamsError where one cannot be read.

    A switch that is off sends no answer: ``switches_shown`` says that the form had them.
    """
    changed: dict[str, Any] = {}
    for setting in (setting for group in groups for setting in group.settings):
        answer = answers.get(setting.key)
        if answer is None:
            if setting.input is Input.SWITCH and switches_shown and setting.value == "true":
                changed[setting.key] = False
            continue
        answer = answer.strip().replace("\r\n", "\n")
        if answer != setting.value:
            changed[setting.key] = _read(setting, answer)
    return changed


def _read(setting: Setting, answer: str) -> Any:
    if setting.input is Input.SWITCH:
        return answer == "true"
    if not answer and setting.may_be_empty:
        return None
    if setting.input in (Input.CHOICE, Input.TEXT):
        return answer
    if setting.input is Input.LINES:
        return [line.strip() for line in answer.split("\n") if line.strip()]
    try:
        return parse_settings(f"value: {answer}", setting.key)["value"]
    except (ParamsError, KeyError) as error:
        raise ParamsError(f"{setting.key}: {answer!r} cannot be read") from error
