"""Every artefact that ``params.yaml`` asks for, what each is made from, and whether it is fresh.

The one place that decides what is fresh: an artefact is, where its ``made.json`` says that it was
made by the stage's recipe, with the settings and from the inputs of now.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from nsync_pipeline.errors import MissingArtifactError, ParamsError
from nsync_pipeline.files import file_sha256
from nsync_pipeline.graph.made import FileHashes, Made, read_made
from nsync_pipeline.graph.table import STAGES, Stage
from nsync_pipeline.params import Params, read_params
from nsync_pipeline.settings import CHOICES_MADE, StageSettings
from nsync_pipeline.workspace import ABLATIONS, BASE, Workspace


@dataclass(frozen=True)
class Artefact:
    """One folder that one stage makes: of a style, or of one training of a variant."""

    stage: Stage
    style: str
    variant: str | None = None
    training_seed: int | None = None
    of_ablation: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Its style, and its training where it has one."""
        parts = (self.style, self.variant, self.training_seed)
        return tuple(str(part) for part in parts if part is not None)

    @property
    def title(self) -> str:
        """``training · ink · nsync · 0``."""
        of_ablation = " of the ablation" if self.of_ablation else ""
        return " · ".join((f"{self.stage.name}{of_ablation}", *self.parts))

    @property
    def slot(self) -> str:
        """Its name among locks: ``training-ink-nsync-0``."""
        prefix = (ABLATIONS,) if self.of_ablation else ()
        return "-".join((*prefix, self.stage.name, *self.parts))

    @property
    def training(self) -> str | None:
        """``nsync-0``; None for what is made once a style."""
        return None if self.variant is None else f"{self.variant}-{self.training_seed}"

    @property
    def path(self) -> str:
        """Its folder, relative to the workspace."""
        path = self.stage.folder.format(
            style=self.style, variant=self.variant, training_seed=self.training_seed
        )
        if not self.of_ablation:
            return path
        kind, _, rest = path.partition(f"/{self.style}")
        return f"{ABLATIONS}/{self.style}/{kind}{rest}"


class State(Enum):
    """How an artefact stands."""

    FRESH = "fresh"
    STALE = "stale"  # it is there, and would come out otherwise
    MISSING = "missing"  # it is not there
    WAITING = "waiting"  # what it is made from is not fresh


@dataclass(frozen=True)
class Standing:
    """An artefact's state, and why it is not fresh."""

    state: State
    why: str = ""
    made: Made | None = None


@dataclass(frozen=True)
class AblationPart:
    """Which part of the section ``ablation`` is meant."""

    only: tuple[str, ...] | None = None  # of its variants; None: all
    training_seeds: tuple[int, ...] | None = None  # None: those of the section


WHOLE = AblationPart()


class Graph:
    """The artefacts of one workspace, as its ``params.yaml`` is now."""

    def __init__(self, workspace: Workspace, params: Params, part: AblationPart = WHOLE) -> None:
        self.workspace = workspace
        self.params = params
        self.part = part
        self.hashes = FileHashes(workspace.state / "hashes")
        self._settings: dict[Artefact, StageSettings] = {}
        self._identities: dict[int, dict[str, Any]] = {}
        self._made: dict[str, Made | None] = {}
        self._people_filled: dict[str, str | None] = {}

    @staticmethod
    def read(workspace: Workspace, part: AblationPart = WHOLE) -> "Graph":
        """Of the settings as they are written; raises ``ParamsError`` as ``read_params`` does."""
        return Graph(workspace, read_params(workspace.params_file), part)

    @cached_property
    def ablation_params(self) -> Params:
        """The settings with the ablation's variants and training seeds in place of their own.

        Raises:
            ParamsError: there is no section ``ablation``, or not this variant in it.
        """
        every, only = self.params.ablation_matrix().variants, self.part.only
        strangers = [name for name in only or () if name not in every]
        if strangers:
            raise ParamsError(
                f"variant {strangers[0]!r} is not in the ablation; there are: {', '.join(every)}"
            )
        variants = {n: v for n, v in every.items() if only is None or n in only}
        assert self.params.ablation is not None, "its matrix was made"
        seeds = self.part.training_seeds or self.params.ablation.training_seeds
        return self.params.model_copy(update={"variants": variants, "training_seeds": seeds})

    def params_of(self, of_ablation: bool) -> Params:
        return self.ablation_params if of_ablation else self.params

    def artefacts(self, style: str) -> Iterator[Artefact]:
        """Those of a style, each after what it is made from."""
        for stage in STAGES.values():
            yield from self.of_stage(stage, style)

    def of_stage(self, stage: Stage, style: str, of_ablation: bool = False) -> Iterator[Artefact]:
        """Every artefact of ``stage`` for ``style``."""
        if not stage.per_training:
            yield Artefact(stage, style, of_ablation=of_ablation)
            return
        for run in self.params_of(of_ablation).training_runs():
            yield Artefact(stage, style, run.variant, run.training_seed, of_ablation)

    def artefact(
        self,
        stage: str,
        style: str,
        variant: str | None = None,
        training_seed: int | None = None,
        of_ablation: bool = False,
    ) -> Artefact:
        """The one that is named; of a variant without a seed, its first training.

        Raises:
            ParamsError: there is no such stage, style, variant or training seed, or a variant is
                missing, or something is too much.
        """
        if stage not in STAGES:
            raise ParamsError(f"{stage!r} is not a stage; there are: {', '.join(STAGES)}")
        found = STAGES[stage]
        if found.per_training and variant is None:
            raise ParamsError(f"{stage} runs once a variant: say which with --variant")
        if found.per_training and variant == BASE:
            raise ParamsError(
                f"{BASE!r} is the untrained base model; its pictures: base_generation"
            )
        for option, given in (("variant", variant), ("training-seed", training_seed)):
            if not found.per_training and given is not None:
                raise ParamsError(
                    f"{stage} runs once a style, not once a training: leave --{option} out"
                )
        params = self.params_of(of_ablation)
        params.style(style)
        if variant is None:
            return Artefact(found, style, of_ablation=of_ablation)
        params.variant(variant)
        seed = params.training_seed(training_seed)
        return Artefact(found, style, variant, seed, of_ablation)

    def needs(self, artefact: Artefact) -> Iterator[Artefact]:
        """The artefacts it is made from."""
        for name in artefact.stage.needs:
            need = STAGES[name]
            of_ablation = artefact.of_ablation and not need.shared
            if need.per_training and artefact.stage.per_training:
                yield Artefact(
                    need, artefact.style, artefact.variant, artefact.training_seed, of_ablation
                )
            else:
                yield from self.of_stage(need, artefact.style, of_ablation)

    def settings(self, artefact: Artefact) -> StageSettings:
        """All of ``params.yaml`` that reaches its stage."""
        if artefact not in self._settings:
            params, model = self.params_of(artefact.of_ablation), artefact.stage.settings
            values = {
                name: _value(artefact, params, keys, model.model_fields[name].annotation)
                for name, keys in model.sources()
            }
            self._settings[artefact] = model.model_validate(values)
        return self._settings[artefact]

    def identity(self, artefact: Artefact) -> dict[str, Any]:
        """What of its settings decides it."""
        settings = self.settings(artefact)
        if id(settings) not in self._identities:
            self._identities[id(settings)] = settings.identity()
        return self._identities[id(settings)]

    def plan(self, artefact: Artefact) -> Made:
        """What it would say of itself if it were made now.

        Raises:
            MissingArtifactError: something it is made from is not there.
        """
        inputs: dict[str, str] = {}
        for path in artefact.stage.reads:
            filled = path.format(style=artefact.style)
            if (digest := self.people_s(filled)) is not None:
                inputs[filled] = digest
        for need in self.needs(artefact):
            made = self.made(need)
            if made is None:
                raise MissingArtifactError(
                    f"{self.workspace.root / need.path} is not there, and {artefact.stage.name} "
                    f"reads it: run {need.stage.name} first (`dvc repro` runs all that is missing)."
                )
            inputs[need.path] = made.content
        return Made(
            artefact.stage.name, artefact.stage.recipe, artefact.style, artefact.variant,
            artefact.training_seed, settings=self.identity(artefact), inputs=inputs,
        )  # fmt: skip

    def require_of_one_piece(self, artefact: Artefact, plan: Made) -> None:
        """Check that what it is made from was itself made from the same things.

        Raises:
            MissingArtifactError: a picture was taken out, say, and only some stages ran since.
        """
        for need in self.needs(artefact):
            made = self.made(need)
            assert made is not None, "the plan has its digest"
            if made.of_what != (need.stage.name, *need.parts):
                raise MissingArtifactError(
                    f"{need.path} holds another artefact, {' · '.join(made.of_what)}, "
                    f"and {artefact.title} would take it for {need.title}: run {need.stage.name} "
                    "again first (`dvc repro` runs all that is out of date)."
                )
            for path, digest in made.inputs.items():
                if plan.inputs.get(path, digest) != digest:
                    raise MissingArtifactError(
                        f"{need.title} was made from another {path} than the one that is there "
                        f"now, and {artefact.title} would mix the two: run {need.stage.name} again "
                        "first (`dvc repro` runs all that is out of date)."
                    )

    def made(self, artefact: Artefact) -> Made | None:
        """What it says of itself; None where it is not there. Read once until ``refresh``."""
        if artefact.path not in self._made:
            self._made[artefact.path] = read_made(self.workspace.root / artefact.path)
        return self._made[artefact.path]

    def standings(self, styles: list[str], of_ablation: bool = False) -> dict[Artefact, Standing]:
        """How every artefact of ``styles`` stands, each after what it is made from.

        With those of an ablation come the ones it reads.
        """
        found: dict[Artefact, Standing] = {}
        for style in styles:
            for stage in STAGES.values():
                for artefact in self.of_stage(stage, style, of_ablation and not stage.shared):
                    found[artefact] = self._standing(artefact, found)
        return found

    def refresh(self) -> None:
        """Read anew what is there: something was made, here or by another process."""
        self._made.clear()
        self._people_filled.clear()

    def _standing(self, artefact: Artefact, known: Mapping[Artefact, Standing]) -> Standing:
        made = self.made(artefact)
        for need in self.needs(artefact):
            if need in known and known[need].state is not State.FRESH:
                return Standing(State.WAITING, f"{need.title} is not up to date", made)
        if made is None:
            return Standing(State.MISSING, "it is not there")
        try:
            plan = self.plan(artefact)
        except MissingArtifactError as error:
            return Standing(State.WAITING, str(error), made)
        if made.made_alike(plan):
            return Standing(State.FRESH, made=made)
        return Standing(State.STALE, difference(made, plan), made)

    def people_s(self, path: str) -> str | None:
        """The digest of a folder that people fill; of one that is not there, of an empty one.

        Of a file: None where it is not there, or empty.
        """
        if path not in self._people_filled:
            place = self.workspace.root / path
            if not place.suffix:
                self._people_filled[path] = self.hashes.folder(place)
            else:
                is_filled = place.is_file() and place.stat().st_size > 0
                self._people_filled[path] = file_sha256(place) if is_filled else None
        return self._people_filled[path]


def _value(artefact: Artefact, params: Params, keys: tuple[str, ...], kind: Any) -> Any:
    """What ``params.yaml`` says at ``keys``, for a field of a stage's settings."""
    if len(keys) > 1:  # what a variant changes
        return params.variant(str(artefact.variant))
    if keys[0].startswith(CHOICES_MADE):  # of the workspace's own trainings, not an ablation's
        chosen = {} if artefact.of_ablation else params.style(artefact.style).use_steps
        return dict(chosen) if keys[0] == CHOICES_MADE else chosen.get(str(artefact.training))
    value: Any = params
    for part in keys[0].format(style=artefact.style, variant=artefact.variant).split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    if isinstance(value, dict):
        return tuple(value)
    if isinstance(value, BaseModel) and not isinstance(value, kind):  # a part of it
        return kind(**{name: getattr(value, name) for name in kind.model_fields})
    return value


def difference(made: Made, plan: Made) -> str:
    """What is otherwise now: ``settings: training.learning_rate 0.002 -> 0.001``."""
    if made.recipe != plan.recipe:
        return f"the stage makes it otherwise now (recipe {made.recipe} -> {plan.recipe})"
    changed = _changed_keys(made.settings, plan.settings)
    if changed:
        return f"settings: {'; '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}"
    paths = [p for p in {**made.inputs, **plan.inputs} if made.inputs.get(p) != plan.inputs.get(p)]
    return f"inputs: {', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''}"


def _changed_keys(before: Any, after: Any, name: str = "") -> list[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            line
            for key in {**before, **after}
            for line in _changed_keys(before.get(key), after.get(key), f"{name}.{key}".strip("."))
        ]
    return [] if before == after else [f"{name} {before} -> {after}"]
