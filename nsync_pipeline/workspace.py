"""Where every artefact lies, said once.

All paths are inside one workspace: the folder that holds ``params.yaml``. What is versioned (the
outs of the DVC stages) is apart from the workspace's own state in ``.nsync``, which holds what may
be lost (checkpoints to resume from, locks) and what belongs to this machine (MLflow, Dagster).

An ablation of a style reads the same pictures, captions, negatives and base's drawings; what it
makes lies under ``ablations/<style>``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

LORA_FILE = "pytorch_lora_weights.safetensors"
EMBEDDINGS_FILE = "learned_embeds.safetensors"
"""What a variant trained: its LoRA, its token vectors, or both."""
MANIFEST_FILE = "manifest.parquet"
MORE_CAPTIONS_FILE = "more.parquet"
"""Of captions, where pictures have several."""
ABLATIONS = "ablations"  # the folder of all of them
STEPS_FOLDER = "steps"
"""Of a model: what was saved on the way, ``<8 digits of the step>/`` with the same files."""
STRIP_FILE = "looks.jpg"
"""What a training drew on the way, side by side."""
FIGURES_FOLDER = "figures"  # of an evaluation: a small file a metric, for `dvc metrics show`
PLOTS_FOLDER = "plots"  # of a report: pictures for `dvc plots show`
POINTS_FOLDER = "points"  # of samples: a folder each further way of drawing
BASE = "base"
BASE_BY_NAME = "base_by_name"
"""The untrained base, asked for the style by the name it may know it by."""
"""The name that stands for the untrained base model where a variant is asked for."""
SKETCHBOOK = "sketchbook"
SKETCHBOOK_PREFIX = f"{SKETCHBOOK}:"
"""A source of pictures: the embedded world draws them."""


def drawn_style(source: str) -> tuple[str, str | None]:
    """The held-out style and the confound that ``sketchbook:<style>[+<confound>]`` names."""
    style, _, confound = source.removeprefix(SKETCHBOOK_PREFIX).partition("+")
    return style, confound or None


def trained_files(model: Path) -> tuple[Path, ...]:
    """The files of trained weights that a model's folder holds; of a file, that file."""
    if model.is_file():
        return (model,)
    files = (model / LORA_FILE, model / EMBEDDINGS_FILE)
    return tuple(file for file in files if file.is_file())


def step_folder(model: Path, step: int) -> Path:
    """Where a model's weights after ``step`` lie, of those that were saved on the way."""
    return model / STEPS_FOLDER / f"{step:08d}"


@dataclass(frozen=True)
class TrainingRun:
    """One training of a variant: a variant is trained once a training seed."""

    variant: str
    training_seed: int

    @property
    def name(self) -> str:
        """``lora-0``: no variant's name has a dash."""
        return f"{self.variant}-{self.training_seed}"


def training_runs(
    variants: Iterable[str], training_seeds: Sequence[int]
) -> tuple[TrainingRun, ...]:
    """Every training of a style: each variant with each training seed, variant by variant."""
    return tuple(TrainingRun(variant, seed) for variant in variants for seed in training_seeds)


@dataclass(frozen=True)
class Workspace:
    """The paths of one workspace; ``root`` is absolute."""

    root: Path
    of_ablation: bool = False  # trainings, and what is made from them, are of the ablations

    @property
    def params_file(self) -> Path:
        return self.root / "params.yaml"

    def source(self, style: str) -> Path:
        """The user's own pictures of a style, as ``nsync add-style`` brought them in."""
        return self.root / "sources" / style

    def choices(self, style: str) -> Path:
        """What people chose on blind pages of a style, a JSON file each."""
        return self._result("choices", style)

    def style_set(self, style: str) -> Path:
        """``manifest.parquet`` (pictures.manifest.STYLE_SET) and ``images/``."""
        return self.root / "data" / style / "style_set"

    def captions(self, style: str) -> Path:
        """``manifest.parquet`` (pictures.manifest.CAPTIONS), ``MORE_CAPTIONS_FILE``."""
        return self.root / "data" / style / "captions"

    def captions_by_hand(self, style: str) -> Path:
        """The captions that a person wrote here, a line a picture (``captions.by_hand``)."""
        return self.root / "captions" / f"{style}.jsonl"

    def negative_set(self, style: str) -> Path:
        """``manifest.parquet`` (pictures.manifest.NEGATIVE_SET) and ``images/``."""
        return self.root / "data" / style / "negative_set"

    def model(self, style: str, variant: str, training_seed: int | str) -> Path:
        """``LORA_FILE`` and ``EMBEDDINGS_FILE``, as trained, ``history.csv``, ``training.json``.

        A training seed is a number, or what stands for it in ``dvc.yaml``.
        """
        return self._result("models", style) / variant / str(training_seed)

    def samples(self, style: str, variant: str, training_seed: int | str | None = None) -> Path:
        """``manifest.parquet`` (pictures.manifest.SAMPLES) and ``images/``.

        Of further ways of drawing the same again, in ``points/<way>/``.

        Of ``base``, which nobody trained, whatever the training seed is.

        Raises:
            ValueError: of a variant, the training seed is missing.
        """
        if variant == BASE:
            return self.root / "samples" / style / BASE
        if training_seed is None:
            raise ValueError(f"the samples of {variant!r} are of one training: say its seed")
        return self._result("samples", style) / variant / str(training_seed)

    def evaluation(self, style: str) -> Path:
        """``metrics.json``, ``pictures.parquet`` (values a picture) and ``plots/*.csv``."""
        return self._result("evaluation", style)

    def report(self, style: str) -> Path:
        """``report.html``."""
        return self._result("reports", style)

    def _result(self, kind: str, style: str) -> Path:
        if self.of_ablation:
            return self.root / ABLATIONS / style / kind
        return self.root / kind / style

    @property
    def state(self) -> Path:
        """This machine's own state: nothing in it is an artefact."""
        return self.root / ".nsync"

    def scratch(self, *parts: str) -> Path:
        """Where a stage keeps what it picks up from after an interruption."""
        own = (ABLATIONS, *parts) if self.of_ablation else parts
        return self.state.joinpath("scratch", *own)

    def lock(self, name: str) -> Path:
        own = f"{ABLATIONS}-{name}" if self.of_ablation else name
        return self.state / "locks" / f"{own}.lock"

    def listing(self, style: str, what: str) -> Path:
        """Where all names are that a message has only the first of."""
        return self.state / "lists" / f"{style}-{what}.txt"

    @property
    def tracking(self) -> Path:
        """MLflow's database, its artifacts, and the spool of what is not delivered yet."""
        return self.state / "mlflow"

    @property
    def dagster_home(self) -> Path:
        return self.state / "dagster"
