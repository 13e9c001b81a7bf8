"""The stages as a table: what each reads, needs, runs and makes.

``dvc.yaml`` says the same for DVC, and a test holds the two together.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.artifacts import BASE, TrainingRun, Workspace
from nsync_pipeline.errors import ParamsError
from nsync_pipeline.params import Params
from nsync_pipeline.stages.context import StageContext, StageResult

BASE_WEIGHTS = "sketchbook/weights/pipeline"
CLIP_WEIGHTS = "sketchbook/weights/clip"


@dataclass(frozen=True)
class Place:
    """Which artefact: of a style, and of one training of a variant where the stage has them."""

    workspace: Workspace
    style: str
    variant: str | None = None
    training_seed: int | str | None = None
    """With a variant: the number, or what stands for it in ``dvc.yaml``."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What it is called, from the style on."""
        parts = (self.style, self.variant, self.training_seed)
        return tuple(str(part) for part in parts if part is not None)


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    name: str
    folder: Callable[[Place], Path]
    """The one folder the stage writes: its artefact."""
    settings: tuple[str, ...]
    """The keys of params.yaml it reads, with ``{style}`` and ``{variant}`` to fill in."""
    code: tuple[str, ...]
    """The files and folders of the package whose change can change its artefact."""
    needs: tuple[str, ...] = ()
    """The stages whose artefacts it reads."""
    reads_source: bool = False
    """It reads the user's pictures."""
    reads_choices: bool = False
    """It reads what people chose; where nobody was asked, there is nothing to read."""
    per_training: bool = False
    """It has an artefact a variant and training seed."""
    fixed_variant: str | None = None
    """The variant of a stage that has only this one."""
    module: str = ""
    """In ``nsync_pipeline.stages``; its own name where empty."""
    uses_accelerator: bool = False

    def inputs(self, place: Place, runs: Sequence[TrainingRun]) -> tuple[Path, ...]:
        """The artefacts it reads; ``runs`` are all there are."""
        source = (place.workspace.source(place.style),) if self.reads_source else ()
        choices = (place.workspace.choices(place.style),) if self.reads_choices else ()
        made = tuple(
            STAGES[need].folder(at)
            for need in self.needs
            for at in _places(STAGES[need], self, place, runs)
        )
        return (*source, *made, *choices)

    def keys(self, style: str, variant: str | None) -> tuple[str, ...]:
        """``settings`` with the names filled in."""
        return tuple(key.format(style=style, variant=variant) for key in self.settings)

    def slot(self, place: Place) -> str:
        """What the artefact in ``place`` is called: ``training-ink-nsync-0``."""
        return "-".join((self.name, *place.parts))

    @property
    def fans_in(self) -> bool:
        """It reads the artefacts of every training."""
        return not self.per_training and any(STAGES[need].per_training for need in self.needs)

    def run(self, context: StageContext) -> StageResult:
        """Run it; its module is imported only now, because it may import torch."""
        module = importlib.import_module(f"nsync_pipeline.stages.{self.module or self.name}")
        result: StageResult = module.run(context)
        return result


def places(stage: Stage, workspace: Workspace, style: str, params: Params) -> list[Place]:
    """Every artefact of ``stage`` for ``style``."""
    if not stage.per_training:
        return [Place(workspace, style)]
    return _of_all(workspace, style, params.training_runs())


def _places(
    need: Stage, reader: Stage, place: Place, runs: Sequence[TrainingRun]
) -> Sequence[Place]:
    if not need.per_training:
        return [Place(place.workspace, place.style)]
    return [place] if reader.per_training else _of_all(place.workspace, place.style, runs)


def _of_all(workspace: Workspace, style: str, runs: Sequence[TrainingRun]) -> list[Place]:
    return [Place(workspace, style, run.variant, run.training_seed) for run in runs]


_FILES = ("stages/picture_files.py", "stages/whole_folder.py", "image_sets")
_DRAWING = (
    "stages/captioned_split.py", "stages/drawn_pictures.py", *_FILES, "generation",
    "training/determinism.py", "families", "seeding.py", BASE_WEIGHTS,
)  # fmt: skip
_STYLE_MARGIN = (
    "metrics/features.py", "metrics/extractor.py", "metrics/clip_extractor.py",
    "metrics/vision_extractor.py", "metrics/csd.py", "metrics/preprocessing.py",
    "metrics/style.py", "metrics/distances.py", CLIP_WEIGHTS,
)  # fmt: skip
"""What scores a look: not all of the metrics, or a new one would ask for new trainings."""
_READING = ("stages/picture_sets.py", "stages/evaluation_files.py", *_FILES, "metrics")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="style_set",
            folder=lambda at: at.workspace.style_set(at.style),
            settings=("seed", "styles.{style}", "style_set"),
            code=("stages/style_set.py", *_FILES, "sketchbook"),
            reads_source=True,
        ),
        Stage(
            name="captions",
            folder=lambda at: at.workspace.captions(at.style),
            settings=("styles.{style}", "base_model", "captioning"),
            code=(
                "stages/captions.py", "stages/model_captions.py", *_FILES, "captioning",
                "generation/prompts.py", "families", BASE_WEIGHTS,
            ),
            needs=("style_set",),
            uses_accelerator=True,
        ),
        Stage(
            name="negative_set",
            folder=lambda at: at.workspace.negative_set(at.style),
            settings=("seed", "styles.{style}.generic_style", "base_model", "negative_set"),
            code=("stages/negative_set.py", *_DRAWING),
            needs=("style_set", "captions"),
            uses_accelerator=True,
        ),
        Stage(
            name="training",
            folder=lambda at: at.workspace.model(at.style, str(at.variant), str(at.training_seed)),
            settings=(
                "seed", "styles.{style}.placeholder", "styles.{style}.generic_style", "base_model",
                "training", "variants.{variant}",
            ),
            code=(
                "stages/training.py", "stages/training_inputs.py", "stages/training_looks.py",
                "stages/training_watch.py", "stages/look_scorer.py", *_FILES,
                "training", "contrast", "diffusion", "adaptation", "generation", *_STYLE_MARGIN,
                "families", "seeding.py", BASE_WEIGHTS,
            ),
            needs=("style_set", "captions", "negative_set"),
            per_training=True,
            uses_accelerator=True,
        ),
        Stage(
            name="generation",
            folder=lambda at: at.workspace.samples(
                at.style, str(at.variant), at.training_seed
            ),
            settings=("seed", "styles.{style}.placeholder", "base_model", "generation"),
            code=("stages/generation.py", "adaptation", "diffusion/snr.py", *_DRAWING),
            needs=("style_set", "captions", "training"),
            per_training=True,
            uses_accelerator=True,
        ),
        Stage(
            name="base_generation",
            folder=lambda at: at.workspace.samples(at.style, BASE),
            settings=("seed", "styles.{style}.generic_style", "base_model", "generation"),
            code=("stages/generation.py", "adaptation", "diffusion/snr.py", *_DRAWING),
            needs=("style_set", "captions"),
            fixed_variant=BASE,
            module="generation",
            uses_accelerator=True,
        ),
        Stage(
            name="evaluation",
            folder=lambda at: at.workspace.evaluation(at.style),
            settings=(
                "seed", "styles.{style}.source", "base_model.device", "training_seeds",
                "evaluation",
            ),
            code=(
                "stages/evaluation.py", "stages/evaluation_features.py", *_READING, "families",
                "seeding.py", "sketchbook",
            ),
            needs=("style_set", "captions", "negative_set", "base_generation", "generation"),
            uses_accelerator=True,
        ),
        Stage(
            name="report",
            folder=lambda at: at.workspace.report(at.style),
            settings=(
                "seed", "styles.{style}.source", "styles.{style}.generic_style", "training_seeds",
                "evaluation.bootstrap_draws", "report",
            ),
            code=(
                "stages/report.py", "stages/report_choices.py", "stages/report_lineage.py",
                "stages/report_pictures.py", "stages/report_training.py", "stages/blind_choices.py",
                "stages/blind_questions.py", "training/watch_strip.py", *_READING, "report",
                "seeding.py",
            ),
            needs=(
                "style_set", "captions", "negative_set", "training", "base_generation",
                "generation", "evaluation",
            ),
            reads_choices=True,
        ),
    )
}  # fmt: skip


def find_stage(name: str, variant: str | None, training_seed: int | None = None) -> Stage:
    """The stage called ``name``, as long as variant and training seed go with it.

    Raises:
        ParamsError: there is no such stage, or a variant is missing, or something is too much.
    """
    if name not in STAGES:
        raise ParamsError(f"{name!r} is not a stage; there are: {', '.join(STAGES)}")
    stage = STAGES[name]
    if stage.per_training and variant is None:
        raise ParamsError(f"{name} runs once a variant: say which with --variant")
    if stage.per_training and variant == BASE:
        raise ParamsError(f"{BASE!r} is the untrained base model; its pictures: base_generation")
    for option, given in (("variant", variant), ("training-seed", training_seed)):
        if not stage.per_training and given is not None:
            raise ParamsError(
                f"{name} runs once a style, not once a training: leave --{option} out"
            )
    return stage
