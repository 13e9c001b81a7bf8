"""The base of every settings section: frozen, and closed to unknown keys."""

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    create_model,
    model_serializer,
)
from pydantic_core import PydanticUndefined

from nsync_pipeline.errors import NotTextError
from nsync_pipeline.text import one_line


def _one_line(value: str) -> str:
    try:
        text = one_line(value)
    except NotTextError as error:
        raise ValueError(str(error)) from error
    if not text:
        raise ValueError("it must have letters in it; found an empty one")
    return text


Phrase = Annotated[str, AfterValidator(_one_line)]
"""Words that go into prompts: one line, composed, with nothing invisible in it."""


class Section(BaseModel):
    """One section of ``params.yaml``: immutable, refuses unknown keys and silent type changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SectionChanges(Section):
    """What is changed of a section: the keys that were set, and no others, are written out."""

    @model_serializer(mode="plain")
    def _only_what_is_set(self) -> dict[str, Any]:
        fields = type(self).model_fields
        return {key: getattr(self, key) for key in fields if key in self.model_fields_set}

    def merged_into(self, values: dict[str, Any] | None) -> dict[str, Any]:
        """``values`` of the section with these changes in them, section by section.

        A section within changes only its own keys; one that was not there has its defaults beside
        them. Anything else, lists and dictionaries too, is replaced as a whole.
        """
        merged = dict(values or {})
        for key in self.model_fields_set:
            change = getattr(self, key)
            is_section = isinstance(change, SectionChanges)
            merged[key] = change.merged_into(merged.get(key)) if is_section else change
        return merged


def changes_of(section: type[Section]) -> type[SectionChanges]:
    """The changes of ``section``: its keys, types and bounds, in its sections too.

    What ``section`` asks of several keys together is asked of the merged values only.
    """
    fields: dict[str, Any] = {
        name: (
            Annotated[(_changeable(field.annotation), *field.metadata)]
            if field.metadata
            else _changeable(field.annotation),
            Field(default=None, description=field.description),
        )
        for name, field in section.model_fields.items()
    }
    return create_model(f"{section.__name__}Changes", __base__=SectionChanges, **fields)


def _changeable(annotation: Any) -> Any:
    """``annotation`` with the changes of a section in the place of a section."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return changes_of(annotation)
    if get_origin(annotation) in (UnionType, Union):
        return Union[tuple(_changeable(argument) for argument in get_args(annotation))]  # noqa: UP007
    return annotation


PARAMS = "params"
LATER = "later"


def later(default: Any, **field: Any) -> Any:
    """A field of a section that came when artefacts had been made without it.

    At its default it is no part of a stage's identity: those artefacts stay fresh.
    """
    return Field(default=default, json_schema_extra={LATER: True}, **field)


CHOICES_MADE = "styles.{style}.use_steps"
"""Where params.yaml says which saved steps a person chose, by training."""


def of_params(*keys: str, came_later: Any = PydanticUndefined) -> Any:
    """A field of a stage's settings: where in ``params.yaml`` its value stands.

    Where a section stands there and the field is a smaller section, it has the keys they share.

    Args:
        keys: dotted, with ``{style}``, ``{variant}`` and ``{training}`` to fill in. The first holds
            the value; the others change it, as a variant changes ``training``.
        came_later: the value at which it is no part of the identity, as a field made by ``later``.
    """
    if came_later is PydanticUndefined:
        return Field(json_schema_extra={PARAMS: list(keys)})
    return Field(default=came_later, json_schema_extra={PARAMS: list(keys), LATER: True})


class StageSettings(Section):
    """All of ``params.yaml`` that reaches a stage; each field is made by ``of_params``."""

    @classmethod
    def sources(cls) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each field, and its keys."""
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            assert isinstance(extra, dict), f"{cls.__name__}.{name} is not made by of_params"
            yield name, tuple(str(key) for key in cast(list[str], extra[PARAMS]))

    def identity(self) -> dict[str, Any]:
        """What of it decides the artefact, as JSON: with another, it would come out otherwise."""
        return _without_later(self.model_dump(mode="json"), type(self))


def _without_later(content: dict[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    """``content`` of ``section`` without what came later and is at its default."""
    kept: dict[str, Any] = {}
    for name, value in content.items():
        field = section.model_fields.get(name)
        extra = field.json_schema_extra if field is not None else None
        came_later = isinstance(extra, dict) and bool(extra.get(LATER))
        if field is not None and came_later and value == _plain(field.default):
            continue
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        kept[name] = _without_later(value, inner[0]) if inner and isinstance(value, dict) else value
    return kept


def _plain(value: Any) -> Any:
    """A default as JSON has it."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.model_dump(mode="json") if isinstance(value, Section) else value


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"training": {"steps": 5}}`` as ``{"training.steps": 5}``; an empty section is a value."""
    leaves: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
