"""``params.yaml``: the one source of settings, read strictly."""

import difflib
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from nsync_pipeline.ablation import (
    MOST_TRAININGS,
    AblationConfig,
    Matrix,
    TrainingSeeds,
    make_matrix,
)
from nsync_pipeline.captions.config import CaptioningConfig
from nsync_pipeline.errors import LISTED, ParamsError
from nsync_pipeline.evaluation.config import EvaluationConfig
from nsync_pipeline.executor import ExecutorConfig
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.negative_set.config import NegativeSetConfig
from nsync_pipeline.report.config import ReportConfig
from nsync_pipeline.samples.config import GenerationConfig
from nsync_pipeline.settings import Section
from nsync_pipeline.settings_file import NAME, read_settings
from nsync_pipeline.style_set.config import StyleConfig, StyleSetConfig
from nsync_pipeline.text import printable
from nsync_pipeline.training.config import TrainingConfig, VariantConfig
from nsync_pipeline.workspace import BASE, BASE_BY_NAME, TrainingRun, training_runs

LONGEST_LINE = 1500  # characters of a message: the longest list of allowed keys has 1,000


class DagsterConfig(Section):
    """``dagster`` in params.yaml: what Dagster does by itself. It decides no artefact.

    It is read when the code location is loaded: reload it in the page after a change.
    """

    automation: Literal["none", "eager"] = Field(
        default="none",
        description="`eager`: an asset is made again when what it is made from was made again "
        "(Dagster's automation condition of that name)",
    )
    fresh_within_hours: float | None = Field(
        default=None, gt=0, description="an asset that was made longer ago shows as not fresh"
    )
    night: str = Field(
        default="*/10 0-5 * * *",
        description="when the schedules `night_...` have made what is out of date (cron); they are "
        "off until somebody turns them on",
    )
    on_failure: str | None = Field(
        default=None,
        description="a shell command that each failed run starts, with what it said on its "
        "standard input: `mail -s nsync me@example.org`",
    )
    ablation: bool = Field(
        default=False,
        description="ablations can be materialized in the page, and `Materialize all` takes them; "
        "else the page shows what `nsync ablate` made",
    )


class Params(Section):
    """The whole of ``params.yaml``."""

    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="the root of every random stream")
    base_model: BaseModelConfig = BaseModelConfig()
    styles: dict[str, StyleConfig] = Field(min_length=1)
    style_set: StyleSetConfig = StyleSetConfig()
    captioning: CaptioningConfig = CaptioningConfig()
    negative_set: NegativeSetConfig = NegativeSetConfig()
    training: TrainingConfig = TrainingConfig()
    variants: dict[str, VariantConfig] = Field(min_length=1)
    training_seeds: TrainingSeeds = Field(
        default=(0,),
        description="which trainings of each variant there are: a model a variant and seed",
    )
    generation: GenerationConfig = GenerationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    report: ReportConfig = ReportConfig()
    executor: ExecutorConfig = ExecutorConfig()
    dagster: DagsterConfig = DagsterConfig()
    ablation: AblationConfig | None = Field(
        default=None, description="what `nsync ablate` trains and compares (docs/ablation.md)"
    )

    @field_validator("styles", "variants")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            _require_name(name)
        return value

    @field_validator("ablation")
    @classmethod
    def _names_of_variants(cls, value: AblationConfig | None) -> AblationConfig | None:
        for name in value.variants if value else ():
            _require_name(name)
            _refuse_taken(name)
        return value

    @model_validator(mode="after")
    def _together(self) -> "Params":
        for name in self.variants:
            _refuse_taken(name)
        if len(self.styles) * len(self.training_runs()) > MOST_TRAININGS:
            raise ValueError(
                f"styles, variants and training_seeds ask for {len(self.styles)} x "
                f"{len(self.variants)} x {len(self.training_seeds)} trainings: more than "
                f"{MOST_TRAININGS}"
            )
        if self.negative_set.resolution is not None and self.base_model.aspect_buckets:
            raise ValueError(
                "negative_set.resolution is for square pictures: set base_model.aspect_buckets to "
                "false, or leave it out"
            )
        trainings = [run.name for run in self.training_runs()]
        for name, style in self.styles.items():
            if strangers := [one for one in style.use_steps if one not in trainings]:
                raise ValueError(
                    f"styles.{name}.use_steps names {strangers[0]!r}, which is no training (a "
                    f"variant, a dash and a training seed); there are: {', '.join(trainings)}"
                )
            if style.source == "folder":
                for key in ("pictures", "test_pictures"):
                    if getattr(style, key) is not None:
                        raise ValueError(f"styles.{name}.{key} goes only with a sketchbook source")
                continue
            if not style.source.startswith("sketchbook:"):
                raise ValueError(
                    f"styles.{name}.source is {style.source!r}: allowed are `folder` and "
                    "`sketchbook:<held-out style>`; `nsync add-style` brings a folder in"
                )
            if style.pictures is None:
                raise ValueError(f"styles.{name}.pictures is missing: how many to draw")
            if "+" in style.source and style.test_pictures is None:
                raise ValueError(
                    f"styles.{name}.test_pictures is missing: how many to draw without what the "
                    "others share"
                )
        return self

    def variant(self, name: str) -> TrainingConfig:
        """The settings variant ``name`` is trained with.

        Raises:
            ParamsError: there is no such variant, or it does not go with `training`.
        """
        if name not in self.variants:
            raise ParamsError(
                f"variant {name!r} is not in params.yaml; there are: {', '.join(self.variants)}"
            )
        return _settings_of(self.variants[name], self.training, "variants", name)

    def ablation_matrix(self) -> Matrix:
        """The variants of ``ablation``, those of its grid among them.

        Raises:
            ParamsError: there is no such section, or it does not go with `training`.
        """
        if self.ablation is None:
            raise ParamsError(
                "params.yaml has no section `ablation`: it says what is compared "
                "(docs/ablation.md has an example)"
            )
        for name, variant in self.ablation.variants.items():
            _settings_of(variant, self.training, "ablation", "variants", name)
        try:
            return make_matrix(self.ablation, self.training)
        except ValueError as error:
            raise ParamsError(f"params.yaml: {error}") from error

    def training_seed(self, asked: int | None) -> int:
        """The training seed that is ``asked`` for; the first where none is.

        Raises:
            ParamsError: no variant is trained with it.
        """
        if asked is None:
            return self.training_seeds[0]
        if asked not in self.training_seeds:
            there = ", ".join(map(str, self.training_seeds))
            raise ParamsError(
                f"training seed {asked} is not in training_seeds of params.yaml; there are: {there}"
            )
        return asked

    def training_run(self, variant: str, training_seed: int | None) -> TrainingRun:
        """The training of ``variant`` that is asked for; raises as the two above."""
        self.variant(variant)
        return TrainingRun(variant, self.training_seed(training_seed))

    def training_runs(self) -> tuple[TrainingRun, ...]:
        """Every training of a style: each variant with each training seed, variant by variant."""
        return training_runs(self.variants, self.training_seeds)

    def style(self, name: str) -> StyleConfig:
        """The settings of style ``name``.

        Raises:
            ParamsError: there is no such style.
        """
        if name not in self.styles:
            raise ParamsError(
                f"style {name!r} is not in params.yaml; there are: {', '.join(self.styles)}"
            )
        return self.styles[name]


def _require_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a name: lower-case letters, digits and _ only, at most 48"
        )


def _refuse_taken(variant: str) -> None:
    if variant in (BASE, BASE_BY_NAME):
        raise ValueError(f"variants: {variant!r} is taken: it names the untrained base model")


def _settings_of(variant: VariantConfig, training: TrainingConfig, *key: str) -> TrainingConfig:
    """``training`` as ``variant`` changes it; ``key`` is where the variant stands."""
    try:
        return variant.settings(training)
    except ValidationError as error:
        raise ParamsError(_lines("params.yaml", error, key)) from error


def read_params(path: Path) -> Params:
    """Read and check ``params.yaml``.

    Raises:
        ParamsError: it is missing, is not YAML, or has an unknown key, a wrong type or a value out
            of range; the message names each such key, its value and what is allowed, a line each.
    """
    return parse_params(read_settings(path), path.name)


def parse_params(content: dict[str, Any], where: str = "params.yaml") -> Params:
    """Check ``content`` against the schema; raises as ``read_params``."""
    try:
        # As JSON, so that strictness is JSON's: a list is a tuple, 1 is a float, "1" is no number.
        params = Params.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise ParamsError(_lines(where, error)) from error
    for name in params.variants:
        params.variant(name)
    if params.ablation is not None:
        params.ablation_matrix()
    return params


def _lines(where: str, error: ValidationError, section: tuple[str, ...] = ()) -> str:
    """A line a mistake."""
    lines = [_explained(where, one, section) for one in error.errors()[: LISTED + 1]]
    if error.error_count() > LISTED:
        lines[LISTED:] = [f"{where}: and {error.error_count() - LISTED} more mistakes"]
    return "\n".join(printable(line, most=LONGEST_LINE) for line in lines)


def _explained(where: str, error: Any, section: tuple[str, ...] = ()) -> str:
    """One line: the key, the value, and what is allowed; ``section`` is what was checked."""
    location = section + tuple(part for part in error["loc"] if part != "[key]")
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        allowed = _allowed_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        return f"{where}: {key}: unknown key{meant}; allowed here: {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"{where}: {key}: missing; it has no default"
    message = str(error["msg"]).removeprefix("Value error, ")
    if not key:
        return f"{where}: {message}"
    if error["type"] == "value_error":
        return f"{where}: {key}: {message}"
    value = printable(repr(error["input"]))
    return f"{where}: {key}: {value} is not allowed: {message[0].lower()}{message[1:]}"


def _allowed_keys(location: tuple[Any, ...]) -> list[str]:
    """The keys of the section at ``location``; the keys of a dictionary are the user's own."""
    section: type[BaseModel] = Params
    parts = list(location)
    while parts:
        part = parts.pop(0)
        if isinstance(part, int):  # of a list
            continue
        annotation = section.model_fields[str(part)].annotation
        kinds = (annotation, *get_args(annotation))
        models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if get_origin(annotation) is dict and parts:
            parts.pop(0)
        if not models:
            return []
        section = models[0]
    return list(section.model_fields)
