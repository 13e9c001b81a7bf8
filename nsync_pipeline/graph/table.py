"""The graph, said once: every stage, what it reads of ``params.yaml``, needs and makes.

``dvc.yaml``, the Dagster assets, their dependencies and the diagram in the docs come from here.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from nsync_pipeline.captions.config import CaptionsSettings
from nsync_pipeline.evaluation.config import EvaluationSettings
from nsync_pipeline.negative_set.config import NegativeSetSettings
from nsync_pipeline.report.config import ReportSettings
from nsync_pipeline.samples.config import BaseSamplesSettings, SamplesSettings
from nsync_pipeline.settings import StageSettings
from nsync_pipeline.stage import StageContext, StageResult
from nsync_pipeline.style_set.config import StyleSetSettings
from nsync_pipeline.training.config import TrainingSettings
from nsync_pipeline.workspace import BASE


@dataclass(frozen=True)
class Stage:
    """One row: a stage makes one artefact, a folder, once a style or once a training."""

    name: str
    asset: str  # what the artefact is called in Dagster
    group: str  # the assets it is shown among there
    says: str  # what the artefact is, in a sentence
    room: str  # the package that holds its ``stage.py``
    settings: type[StageSettings]
    recipe: int  # raised when its artefact would come out otherwise from the same inputs
    folder: str  # with {style}, {variant} and {training_seed}
    needs: tuple[str, ...] = ()  # the stages whose artefacts it reads
    reads: tuple[str, ...] = ()
    """What people fill, with {style}: folders, and files (``.jsonl``), which need not be there."""
    per_training: bool = False
    on_device: bool = False  # it uses the accelerator where there is one
    shared: bool = False  # an ablation reads the artefact of the style's own
    function: str = "run"  # of its stage.py
    kinds: tuple[str, ...] = ()  # the badges of its asset

    def run(self, context: StageContext[Any]) -> StageResult:
        """Run it; its room is imported only now, because it may import torch."""
        module = importlib.import_module(f"nsync_pipeline.{self.room}.stage")
        result: StageResult = getattr(module, self.function)(context)
        return result


SOURCES = "sources/{style}"
BY_HAND = "captions/{style}.jsonl"
CHOICES = "choices/{style}"

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="style_set", asset="style_set", group="pictures",
            room="style_set", settings=StyleSetSettings,
            says="The pictures of a style: checked, normalised, without duplicates, split in two.",
            recipe=2, folder="data/{style}/style_set", reads=(SOURCES,), shared=True,
            kinds=("parquet",),
        ),
        Stage(
            name="captions", asset="captions", group="pictures",
            room="captions", settings=CaptionsSettings,
            says="What each picture shows, in words that say nothing of its style.",
            recipe=3, folder="data/{style}/captions", needs=("style_set",), reads=(BY_HAND,),
            shared=True, on_device=True, kinds=("parquet", "huggingface"),
        ),
        Stage(
            name="negative_set", asset="negative_set", group="pictures",
            room="negative_set",
            settings=NegativeSetSettings,
            says="Negative synthetic images: the same content as the frozen base draws it.",
            recipe=2, folder="data/{style}/negative_set", needs=("style_set", "captions"),
            shared=True, on_device=True, kinds=("parquet", "diffusers"),
        ),
        Stage(
            name="training", asset="lora", group="models",
            room="training", settings=TrainingSettings,
            says="The style as a LoRA, trained by the update rule of its variant.",
            recipe=2, folder="models/{style}/{variant}/{training_seed}",
            needs=("style_set", "captions", "negative_set"), per_training=True, on_device=True,
            kinds=("pytorch", "safetensors"),
        ),
        Stage(
            name="generation", asset="samples", group="drawings",
            room="samples", settings=SamplesSettings,
            says="The captions held out of training, drawn with the LoRA from fixed seeds.",
            recipe=2, folder="samples/{style}/{variant}/{training_seed}",
            needs=("style_set", "captions", "training"), per_training=True, on_device=True,
            kinds=("parquet", "diffusers"),
        ),
        Stage(
            name="base_generation", asset="base_samples", group="drawings",
            room="samples", function="run_base",
            settings=BaseSamplesSettings,
            says="The same captions from the same seeds, drawn by the untrained base.",
            recipe=2, folder=f"samples/{{style}}/{BASE}", needs=("style_set", "captions"),
            shared=True, on_device=True, kinds=("parquet", "diffusers"),
        ),
        Stage(
            name="evaluation", asset="evaluation", group="results",
            room="evaluation", settings=EvaluationSettings,
            says="How near each variant comes to the style, what content it keeps, what it copies.",
            recipe=2, folder="evaluation/{style}",
            needs=("style_set", "captions", "negative_set", "base_generation", "generation"),
            on_device=True, kinds=("json",),
        ),
        Stage(
            name="report", asset="report", group="results",
            room="report", settings=ReportSettings,
            says="One page a style: pictures side by side, figures, choices, where all came from.",
            recipe=3, folder="reports/{style}",
            needs=(
                "style_set", "captions", "negative_set", "training", "base_generation",
                "generation", "evaluation",
            ),
            reads=(CHOICES,), kinds=("html",),
        ),
    )
}  # fmt: skip
"""In an order in which they can be made."""
