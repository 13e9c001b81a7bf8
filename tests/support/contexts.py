"""The context of a stage, as the runner makes it from ``params.yaml``."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from nsync_pipeline.params import Params
from nsync_pipeline.settings import CHOICES_MADE, Section, StageSettings
from nsync_pipeline.stage import StageContext
from nsync_pipeline.workspace import BASE, Workspace

Settings = TypeVar("Settings", bound=StageSettings)


def stage_context(
    settings_cls: type[Settings],
    workspace: Workspace,
    params: Params,
    style: str,
    variant: str | None = None,
    training_seed: int = 0,
    **changes: Any,
) -> StageContext[Settings]:
    """A run of the stage with these settings; its artefact's folder is there, and empty.

    ``changes`` are other fields of the context.
    """
    values: dict[str, Any] = {}
    for name, keys in settings_cls.sources():
        annotation = settings_cls.model_fields[name].annotation
        values[name] = _value(params, keys, style, variant, training_seed, annotation)
    folder = _folder(settings_cls, workspace, style, variant, training_seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return StageContext(
        workspace,
        folder,
        settings_cls(**values),
        style,
        variant,
        None if variant is None else training_seed,
        **changes,
    )


def _value(
    params: Params,
    keys: tuple[str, ...],
    style: str,
    variant: str | None,
    training_seed: int,
    annotation: Any,
) -> Any:
    if keys == ("training", "variants.{variant}"):
        assert variant is not None
        return params.variant(variant)
    if keys[0].startswith(CHOICES_MADE):
        chosen = params.styles[style].use_steps
        return chosen if keys[0] == CHOICES_MADE else chosen.get(f"{variant}-{training_seed}")
    value: Any = params
    for part in keys[0].format(style=style, variant=variant).split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    if isinstance(value, Mapping):
        return tuple(value)
    if isinstance(value, Section) and not isinstance(value, annotation):
        return annotation(**{key: getattr(value, key) for key in annotation.model_fields})
    return value


def _folder(
    settings_cls: type[StageSettings],
    workspace: Workspace,
    style: str,
    variant: str | None,
    training_seed: int,
) -> Path:
    room = settings_cls.__module__.split(".")[1]
    if room == "training":
        return workspace.model(style, variant or "", training_seed)
    if room == "samples":
        return workspace.samples(style, variant or BASE, training_seed)
    folder: Path = getattr(workspace, room)(style)
    return folder
