"""An ablation of a style: each variant from each training seed, what they draw, and one report.

Pictures, captions, negatives and the base's drawings are the workspace's own. What is made lies
apart from the main trainings, and is made by the same stages. What was made of the same inputs,
code included, is not made again: so the command goes on after an interruption, and a changed
setting makes anew what it affects.
"""

import gc
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from nsync_pipeline.contrast.config import branches_of
from nsync_pipeline.errors import MissingArtifactError, ParamsError, TrainingError
from nsync_pipeline.graph.dagster_line import dagster_line
from nsync_pipeline.graph.inputs import ReadParams, Tree, read_tree, tree_digest
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.graph.processes import ENDS_WITH_PARENT, die_with_parent
from nsync_pipeline.graph.records import read_made, write_made
from nsync_pipeline.graph.run import make_artefact, read_inputs
from nsync_pipeline.graph.table import STAGES, Place, Stage
from nsync_pipeline.params import Params, read_params
from nsync_pipeline.workspace import Workspace

SHARED = ("style_set", "captions", "negative_set", "base_generation")
"""The stages whose artefacts are the workspace's own."""

MakeShared = Callable[[Stage, Place], None]
"""Brings one of them up to date."""


@dataclass(frozen=True)
class Asked:
    """Which part of the section ``ablation`` is asked for."""

    only: tuple[str, ...] | None = None  # variants; None: all
    training_seeds: tuple[int, ...] | None = None  # None: those of the section

    def read(self, params_file: Path) -> Params:
        """``params.yaml`` with the ablation's variants and training seeds in place of its own.

        Raises:
            ParamsError: it has no section ``ablation``, or not this variant.
        """
        params = read_params(params_file)
        variants = params.ablation_matrix().variants
        assert params.ablation is not None, "its matrix was made"
        strangers = [name for name in self.only or () if name not in variants]
        if strangers:
            raise ParamsError(
                f"variant {strangers[0]!r} is not in the ablation; there are: {', '.join(variants)}"
            )
        chosen = {n: v for n, v in variants.items() if self.only is None or n in self.only}
        seeds = self.training_seeds or params.ablation.training_seeds
        return params.model_copy(update={"variants": chosen, "training_seeds": seeds})


@dataclass(frozen=True)
class Step:
    """One artefact, the stage that makes it, and how that reads ``params.yaml``."""

    stage: Stage
    place: Place
    read: ReadParams

    @property
    def folder(self) -> Path:
        return self.stage.folder(self.place)

    @property
    def title(self) -> str:
        return " · ".join((self.stage.name, *self.place.parts[1:]))


@dataclass(frozen=True)
class Outcome:
    """What there is now."""

    made: tuple[Step, ...]  # by this run; the rest was there
    group: str  # the value of the tag ``nsync.ablation`` of its runs in MLflow
    evaluation: Path
    report: Path


@dataclass
class Ablation:
    """The ablation of one style, or the part of it that is asked for."""

    workspace: Workspace
    style: str
    asked: Asked
    _known: dict[Path, Tree] = field(default_factory=dict)

    @property
    def own(self) -> Workspace:
        """Where what it makes lies."""
        return replace(self.workspace, of_ablation=True)

    def params(self) -> Params:
        """The settings, checked as far as they can be before anything is made.

        Raises:
            ParamsError: style, section or variant are not there.
            TrainingError: a variant wants more negatives of a picture than are drawn.
        """
        params = self.asked.read(self.workspace.params_file)
        params.style(self.style)
        for name in params.variants:
            settings = params.variant(name)
            wanted = branches_of(settings.update_rule, settings.contrast).negatives
            drawn = params.negative_set.per_positive
            if wanted > drawn:
                raise TrainingError(
                    f"training.contrast.negatives of {name} asks for {wanted} negatives of a "
                    f"picture, and negative_set.per_positive is {drawn}: set it to {wanted} or more"
                )
        return params

    def shared_steps(self) -> list[Step]:
        """What it reads and does not own, in the order in which it can be made."""
        place = Place(self.workspace, self.style)
        return [Step(STAGES[name], place, read_params) for name in SHARED]

    def training_steps(self, params: Params) -> list[Step]:
        """Training after training, each with what it draws; a seed of all variants, then the next:
        so what an interrupted ablation has can be compared."""
        places = [
            Place(self.own, self.style, variant, seed)
            for seed in params.training_seeds
            for variant in params.variants
        ]
        stages = (STAGES["training"], STAGES["generation"])
        return [Step(stage, place, self.asked.read) for place in places for stage in stages]

    def closing_steps(self) -> list[Step]:
        place = Place(self.own, self.style)
        return [Step(STAGES[name], place, self.asked.read) for name in ("evaluation", "report")]

    def inputs(self, step: Step) -> str:
        """The digest of what the step reads; raises where something is missing."""
        params = step.read(self.workspace.params_file)
        return read_inputs(step.stage, step.place, params, step.read, self._known).digest()

    def is_fresh(self, step: Step, group: str = "") -> bool:
        """Its artefact is there, and was made here of what there is now (in this group)."""
        if not step.folder.is_dir():
            return False
        try:
            inputs = self.inputs(step)
        except MissingArtifactError:
            return False
        folder = step.place.workspace.made(self.style)
        made = read_made(folder, step.stage.slot(step.place), inputs + group)
        return made is not None and made == self._artefact(step)

    def keep(self, step: Step, group: str = "") -> None:
        """Note that the artefact is made of what there is now (in this group)."""
        folder, slot = step.place.workspace.made(self.style), step.stage.slot(step.place)
        write_made(folder, slot, self.inputs(step) + group, self._artefact(step))

    def group(self, params: Params) -> str:
        """8 hex digits over what all its trainings are made of."""
        trainings = [s for s in self.training_steps(params) if s.stage.name == "training"]
        inputs = sorted(f"{s.stage.slot(s.place)} {self.inputs(s)}" for s in trainings)
        return hashlib.blake2b("\n".join(inputs).encode(), digest_size=4).hexdigest()

    def _artefact(self, step: Step) -> str:
        tree = read_tree(step.folder, self._known.get(step.folder))
        self._known[step.folder] = tree
        return tree_digest(tree)


def pending_steps(ablation: Ablation, params: Params) -> list[Step]:
    """What running it now would make; of what is to be made of something that is, all."""
    shared = [step for step in ablation.shared_steps() if not ablation.is_fresh(step)]
    if shared:
        return [*shared, *ablation.training_steps(params), *ablation.closing_steps()]
    pending: list[Step] = []
    for step in ablation.training_steps(params):
        follows = pending and pending[-1].place == step.place
        if follows or not ablation.is_fresh(step):
            pending.append(step)
    closing = ablation.closing_steps()
    group = ablation.group(params)
    if pending or not all(ablation.is_fresh(step, group) for step in closing):
        pending += closing
    return pending


def run_ablation(ablation: Ablation, make_shared: MakeShared) -> Outcome:
    """Make what is not there or out of date: trainings, drawings, evaluation, report.

    Raises:
        WorkspaceBusyError: another process is at this ablation.
        UserError: as ``Ablation.params`` and the stages do.
    """
    if ENDS_WITH_PARENT in os.environ:
        die_with_parent()
    params = ablation.params()
    workspace, style = ablation.workspace, ablation.style
    with ExitStack() as open_until_end:
        lock = workspace.lock(f"ablate-{style}")
        open_until_end.enter_context(sole_writer(lock, f"the ablation of {style!r}"))
        line = open_until_end.enter_context(dagster_line())

        def say(text: str) -> None:
            print(text, flush=True)
            if line is not None:
                line.say(text)

        for step in ablation.shared_steps():
            if not ablation.is_fresh(step):
                say(f"{step.stage.name} of {style} is brought up to date first")
                make_shared(step.stage, step.place)
                ablation.keep(step)
        group = ablation.group(params)
        made: list[Step] = []

        def bring_up_to_date(steps: Iterable[Step], group_of: str) -> None:
            for step in steps:
                if ablation.is_fresh(step, group_of):
                    continue
                say(f"[{numbers[step]} of {len(numbers)}] {step.title}")
                make_artefact(step.stage, step.place, step.read, line, group)
                if group_of:
                    ablation.keep(step, group_of)
                made.append(step)
                gc.collect()  # a model's memory, before the next one is loaded

        trainings, closing = ablation.training_steps(params), ablation.closing_steps()
        numbers = {step: number for number, step in enumerate((*trainings, *closing), start=1)}
        bring_up_to_date(trainings, "")
        # In MLflow the scores are on the runs of the trainings: those of this group need them.
        bring_up_to_date(closing, group)
    own = ablation.own
    return Outcome(tuple(made), group, own.evaluation(style), own.report(style))
