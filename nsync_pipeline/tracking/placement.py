"""Which MLflow run a stage's figures belong to.

A training opens a run of its own, and so does an evaluation. What is drawn with a LoRA, and what
the evaluation says of it, is added to the run that trained it, so that MLflow's compare page shows
losses, scores and pictures of ``lora`` and ``nsync`` side by side. A run is found by the content of
its artefact, so a LoRA that DVC restored or another machine trained finds its run, too; where there
is none yet, one is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nsync_pipeline.files import file_sha256
from nsync_pipeline.workspace import BASE, LORA_FILE, TrainingRun, Workspace, trained_files

ARTEFACT = "nsync.artefact"
"""The tag that holds the digest of what a run made."""

ABLATION = "nsync.ablation"
"""The tag that holds the name of the ablation whose runs are compared with this one."""

ATTEMPT = "nsync.run"
"""The tag that holds the name of one attempt, for runs that have not made anything yet."""


@dataclass(frozen=True)
class Placement:
    """Where the figures of one stage go."""

    experiment: str
    name: str
    match: Mapping[str, str] = field(default_factory=dict)
    """The tags that find the run; empty for a run of the stage's own."""
    prefix: str = ""
    """Put before the names of the figures."""
    picture: str = ""
    """What the stage's pictures are called among the run's files. Not by the variant: it is by the
    same name, outside of folders, that MLflow's compare page shows two runs' files side by side."""
    results: bool = False
    """The stage's last figures are figures of the run, too."""
    figures: bool = True
    """The run shows the stage's figures. An evaluation's are shown by the runs of the variants:
    here each would be a chart of a single bar."""

    @property
    def owner(self) -> bool:
        """The stage opens a run, rather than adding to another's."""
        return not self.match


def experiment_of(workspace: Workspace, style: str) -> str:
    """An ablation's runs are an experiment of their own: all of it is to be compared."""
    return f"nsync/{style}/ablation" if workspace.of_ablation else f"nsync/{style}"


def run_name(style: str, training: TrainingRun | None) -> str:
    """What a training's run is called, or the base's, which nobody trained."""
    return f"{training.name if training else BASE} · {style}"


def place(
    workspace: Workspace, stage: str, style: str, training: TrainingRun | None, base: str
) -> Placement | None:
    """The run of ``stage``; None for stages that have nothing to compare.

    A generation without a training is the base's.
    """
    experiment = experiment_of(workspace, style)
    name = run_name(style, training)
    if stage == "training":
        return Placement(experiment, name, picture="training", results=True)
    if stage == "evaluation":
        return Placement(experiment, f"evaluation · {style}", picture="evaluation", figures=False)
    if stage == "report":
        match = {ARTEFACT: evaluation_digest(workspace, style)}
        return Placement(experiment, f"evaluation · {style}", match, "report/", "report")
    if stage == "generation":
        match = {ARTEFACT: training_digest(workspace, style, training, base)}
        return Placement(experiment, name, match, "generation/", "samples")
    return None


def place_scores(
    workspace: Workspace, style: str, training: TrainingRun | None, base: str
) -> Placement:
    """The run that shows what the evaluation says of ``training``; of the base where None."""
    match = {ARTEFACT: training_digest(workspace, style, training, base)}
    experiment = experiment_of(workspace, style)
    return Placement(experiment, run_name(style, training), match, "eval/")


def made_by(
    workspace: Workspace, stage: str, style: str, training: TrainingRun | None
) -> str | None:
    """The digest of what ``stage`` has made, for stages that open a run."""
    if stage == "training":
        return training_digest(workspace, style, training, base="")
    return evaluation_digest(workspace, style) if stage == "evaluation" else None


def training_digest(
    workspace: Workspace, style: str, training: TrainingRun | None, base: str
) -> str:
    if training is None:
        return f"base:{base}".replace("'", "")  # it goes into a quoted search
    model = workspace.model(style, training.variant, training.training_seed)
    files = trained_files(model) or (model / LORA_FILE,)  # which is not there either: an error
    return "+".join(file_sha256(file) for file in files)


def evaluation_digest(workspace: Workspace, style: str) -> str:
    return file_sha256(workspace.evaluation(style) / "metrics.json")
