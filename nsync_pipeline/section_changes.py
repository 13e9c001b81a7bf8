"""Changes of a settings section: the same keys, each of which may be left out."""

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Field, create_model, model_serializer

from nsync_pipeline.strict import Section


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
            if isinstance(change, SectionChanges):
                merged[key] = change.merged_into(merged.get(key))
            else:
                merged[key] = change
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
