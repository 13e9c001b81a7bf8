"""Stage ``training``: a style's LoRA or token vectors by one variant's update rule."""

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nsync_pipeline import __version__
from nsync_pipeline.adaptation.beneath import in_use
from nsync_pipeline.adaptation.lora import remove_lora
from nsync_pipeline.adaptation.lora_file import read_lora_file
from nsync_pipeline.adaptation.other_forms import NoFormError, form_for_others, others_name
from nsync_pipeline.adaptation.safetensors_file import write_safetensors
from nsync_pipeline.adaptation.textual_inversion import prompt_tokens, style_word
from nsync_pipeline.adaptation.trainables import add_trainables, save_trained
from nsync_pipeline.adaptation.trained_weights import TrainedWeights
from nsync_pipeline.contrast.config import ON_TOP
from nsync_pipeline.determinism import deterministic_algorithms
from nsync_pipeline.drawing.prompts import styled_prompt
from nsync_pipeline.errors import CaptionError, MissingArtifactError
from nsync_pipeline.families.family import Family, architecture_of
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.families.noise_schedules import ORIGIN_KEY
from nsync_pipeline.families.placement import choose_device
from nsync_pipeline.files import file_sha256, write_whole
from nsync_pipeline.pictures.pixels import load_pixels, picture_sizes
from nsync_pipeline.pictures.sheets import sharp_jpeg, small_jpeg
from nsync_pipeline.seeding import stream_seed, torch_stream
from nsync_pipeline.stage import Preview, StageContext, StageResult
from nsync_pipeline.training.batches import apply_objective
from nsync_pipeline.training.checkpoint import CheckpointFolder, Inputs
from nsync_pipeline.training.config import TrainingConfig, TrainingSettings
from nsync_pipeline.training.encoded_set import EncodedSet, Example, encode_examples
from nsync_pipeline.training.held_out import MOST_PICTURES, HeldOutLoss
from nsync_pipeline.training.history import (
    HISTORY_FILE,
    StepRecord,
    history_csv,
    loss_curve,
    summarise,
)
from nsync_pipeline.training.inputs import TrainingInputs, read_training_inputs
from nsync_pipeline.training.live import LOOK_PROMPTS, LOOKS, TrainingWatch, grid_name
from nsync_pipeline.training.looks import Looks
from nsync_pipeline.training.loop import train
from nsync_pipeline.training.neighbours import require_fitting
from nsync_pipeline.training.on_top import FIRST_START, learn_beneath
from nsync_pipeline.training.processes import Processes, joined_processes
from nsync_pipeline.workspace import LORA_FILE, STRIP_FILE, step_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Task:
    """What one run of the stage trains."""

    context: StageContext[TrainingSettings]
    word: str  # what its prompts call the style
    inputs: TrainingInputs
    family: Family

    @property
    def settings(self) -> TrainingConfig:
        return self.context.settings.training

    @property
    def seed(self) -> int:
        """The root of this training's own random streams.

        Training seed 0 has the root seed's own; what is measured at (held-out losses, looks) has
        those whatever the training seed, so that trainings can be compared.
        """
        root, (_, training_seed) = self.context.settings.seed, self.context.training
        return stream_seed(root, "training seed", training_seed) if training_seed else root

    def scratch(self, kind: str) -> Path:
        """This training's own folder for what is kept until it ends."""
        variant, training_seed = self.context.training
        style = self.context.style
        return self.context.workspace.scratch(kind, style, variant, str(training_seed))


def run(context: StageContext[TrainingSettings]) -> StageResult:
    """Train what ``context.variant`` trains of ``context.style``, from its training seed.

    Writes its LoRA or token vectors, ``history.csv`` (a row a step) and ``training.json`` to the
    model's folder; with looks, their film-strip and a grid of each. What can be watched on the way
    is in ``context.live``. A killed run is picked up at its newest checkpoint; the result is the
    same to the byte.

    Raises:
        MissingArtifactError: an earlier stage has to run first, or again.
        CaptionError: a picture has no caption, or one too long for the text encoder.
        TrainingError: there is nothing to train on, or a loss or gradient is not finite.
        BaseModelError: the base model cannot be used.
    """
    base = context.settings.base_model
    cpu = choose_device(base.device).type == "cpu"
    exact = deterministic_algorithms(base.deterministic, base.tf32)
    with exact, joined_processes(cpu) as processes:
        return _trained(_read(context), processes)


def _read(context: StageContext[TrainingSettings]) -> _Task:
    params, settings = context.settings, context.settings.training
    word = style_word(params.placeholder, settings.textual_inversion)
    inputs = read_training_inputs(
        context.workspace, context.style, word, settings, params.generic_style, params.seed
    )
    family = load_family(params.base_model)
    if inputs.base_revision not in (None, family.revision):
        raise MissingArtifactError(
            f"the negatives of {context.style} were drawn by another base ({inputs.base_revision}) "
            f"than {family.name} ({family.revision}): run the negative_set stage again"
        )
    apply_objective(family, settings.objective)
    require_fitting(family, settings)
    if settings.lora is not None and settings.lora.start_from is not None:
        # Tried before pictures are encoded, which takes long.
        stream, root = torch_stream(0, "lora"), context.workspace.root
        add_trainables(family, settings.lora, None, stream, folder=root)
        remove_lora(family)
    said: list[tuple[str, Sequence[str]]] = [
        (f"picture {e.id}", (e.prompt, e.negative_prompt or "", *e.wordings, *e.negative_wordings))
        for e in (*inputs.train, *inputs.held_out)
    ]
    if settings.watch.every:
        own = [styled_prompt(one, word) for one in settings.watch.own_prompts]
        said += [(f"training.watch.own_prompts, {one!r}", (one,)) for one in own]
    for whose, prompts in said:
        lengths = {
            prompt_tokens(family, prompt, word, settings.textual_inversion): prompt
            for prompt in prompts
        }
        length, longest = max(lengths.items())
        if length > family.max_prompt_tokens:
            raise CaptionError(
                f"{whose}: its prompt has {length} tokens, and {family.name} takes "
                f"{family.max_prompt_tokens}: the style's name at its end would be cut off. "
                f"Shorten it: {longest!r}"
            )
    return _Task(context, word, inputs, family)


def _trained(task: _Task, processes: Processes) -> StageResult:
    context, family, settings = task.context, task.family, task.settings
    with processes.first_before_others():  # they find its encodings
        flips = settings.random_flip is not None
        examples = _encoded(task, task.inputs.train, "encoding pictures", flips)
    held_out = task.inputs.held_out[:MOST_PICTURES] if processes.rank.is_first else ()
    test = _encoded(task, held_out, "encoding test pictures") if held_out else None
    on_top = settings.update_rule in ON_TOP
    trained = add_trainables(
        family, settings.lora, settings.textual_inversion,
        torch_stream(task.seed, FIRST_START if on_top else "lora"),
        placeholder=context.settings.placeholder, generic_style=context.settings.generic_style,
        folder=context.workspace.root,
    )  # fmt: skip
    held_out_loss = None
    if test is not None:
        held_out_loss = HeldOutLoss(family, test, context.settings.seed, trained.encode_prompts)
    inputs, looks = _inputs(task), None
    of_negatives: dict[str, float] = {}
    if on_top:
        loss = _learn_beneath(task, trained, examples, inputs, processes)
        of_negatives["last_loss_negative"] = loss
    saved = settings.save.steps(settings.steps)
    checkpoints = CheckpointFolder(task.scratch("training"), inputs, saved)
    if settings.watch.every:  # looks hang on all inputs but which of the weights are kept
        others = ("keep", "save", "watch")
        training = {k: v for k, v in inputs["training"].items() if k not in others}
        weights = json.dumps({**inputs, "training": training}, sort_keys=True)
        looks = Looks(context, family, task.inputs.train, task.scratch("looks"), weights, task.word)
    watch = TrainingWatch(context, family.device, looks)
    is_first = processes.rank.is_first

    def save(step: int) -> None:
        folder = step_folder(checkpoints.path, step)
        folder.mkdir(parents=True, exist_ok=True)
        save_trained(family, trained, folder, _origin(task, step))

    outcome = train(
        family, trained, examples, settings, task.seed, checkpoints, held_out_loss,
        watch.on_step if is_first else lambda record: None, watch.on_held_out,
        None if looks is None else watch.look, watch.show, save, processes,
        partial(in_use, family) if on_top else nullcontext,
    )  # fmt: skip
    if not is_first:
        return StageResult({})
    figures: dict[str, int | float | str] = {
        "steps": settings.steps,
        "pictures": len(examples.ids),
        "trained_weights": trained.count,
        **summarise(outcome.history, outcome.held_out),
        **of_negatives,
    }
    summary: dict[str, Any] = {
        **figures,
        **watch.summary(),
        "branches": outcome.branches,
        "kept_step": outcome.kept_step,
        "held_out_losses": {str(done): loss for done, loss in sorted(outcome.held_out.items())},
        "negatives": sum(examples.negative_counts),
        "origin": _origin(task),
        "settings": settings.model_dump(mode="json"),
        "test_pictures": len(task.inputs.held_out),
    }
    of = f"{context.style}, {context.variant}-{context.training_seed}"
    previews = [Preview(f"losses of {of}", loss_curve(outcome.history, outcome.held_out))]
    save_trained(family, trained, context.folder, _origin(task))
    for step in saved:
        shutil.copytree(step_folder(checkpoints.path, step), step_folder(context.folder, step))
    _save_for_others(task)
    write_whole(context.folder / HISTORY_FILE, history_csv(outcome.history))
    text = json.dumps(summary, indent=2, sort_keys=True) + "\n"
    write_whole(context.folder / "training.json", text)
    if looks is not None:
        for done in looks.steps():
            write_whole(context.folder / grid_name(done), looks.grid(done))
        if (strip := looks.strip()) is not None:
            write_whole(context.folder / LOOK_PROMPTS, looks.prompts())
            write_whole(context.folder / STRIP_FILE, sharp_jpeg(strip, 92))
            previews.append(Preview(f"looks of {of}", small_jpeg(strip)))
    # The live tables stay: the machine's figures are nowhere else.
    leftovers = (
        checkpoints.path, task.scratch("looks"), context.live / LOOKS, task.scratch("beneath")
    )  # fmt: skip
    return StageResult(figures | watch.figures(), tuple(previews), leftovers)


def _learn_beneath(
    task: _Task, trained: TrainedWeights, examples: EncodedSet, inputs: Inputs, processes: Processes
) -> float:
    """Have a LoRA learn the negatives, to be beneath ``trained``; its last loss."""
    context, settings = task.context, task.settings

    def on_step(record: StepRecord) -> None:
        if processes.rank.is_first:
            context.progress("training on the negatives", record.step, settings.steps)

    outcome = learn_beneath(
        task.family, trained, examples, settings, task.seed,
        CheckpointFolder(task.scratch("beneath"), inputs), on_step, processes,
    )  # fmt: skip
    return summarise(outcome.history, {})["last_loss_positive"]


def _save_for_others(task: _Task) -> None:
    """Beside the LoRA for diffusers, the same as ComfyUI, A1111 and kohya's tools read it."""
    context = task.context
    if not (context.folder / LORA_FILE).is_file():
        return
    header, tensors = read_lora_file(context.folder / LORA_FILE)
    try:
        form = form_for_others(header, tensors, architecture_of(task.family))
    except NoFormError as error:
        logger.warning("no file for other programs beside it: %s", error)
        return
    if form is not None:
        name = others_name(context.style, context.training[0])
        write_safetensors(context.folder / name, form, {"format": "pt"})


def _encoded(
    task: _Task, examples: Sequence[Example], what: str, mirrored: bool = False
) -> EncodedSet:
    context = task.context
    return encode_examples(
        task.family,
        examples,
        load_pixels,
        lambda done, total: context.progress(what, done, total),
        picture_sizes(task.family, context.settings.base_model.aspect_buckets).of,
        task.inputs.style_prompts,
        context.workspace.scratch("encoded", context.style),
        stretch=task.settings.resize == "stretch",
        mirrored=mirrored,
    )


def _origin(task: _Task, step: int | None = None) -> dict[str, str]:
    """Where what is trained comes from; kept in its files' headers. ``step``: on the way."""
    # Of seed 0, which is the root seed alone, it is left out: then the files are what they would
    # be if there were no others.
    context, family = task.context, task.family
    variant, training_seed = context.training
    seeds = {"training_seed": str(training_seed)} if training_seed else {}
    saved = {} if step is None else {"step": str(step)}
    return {
        **seeds,
        **_start(task),
        **saved,
        "architecture": architecture_of(family),
        "base_model": family.name,
        "base_revision": family.revision,
        "data_sha256": task.inputs.data_sha256,
        "generic_style": context.settings.generic_style,
        "placeholder": task.word,
        "prediction_type": family.noise_schedule.prediction_type,
        "resolution": str(family.resolution),
        "seed": str(context.settings.seed),
        "steps": str(task.settings.steps),
        "style": context.style,
        "update_rule": task.settings.update_rule,
        "variant": variant,
        "version": __version__,
        ORIGIN_KEY: str(task.settings.objective.zero_terminal_snr).lower(),
    }


def _start(task: _Task) -> dict[str, str]:
    """The existing LoRA that the training starts from."""
    lora = task.settings.lora
    if lora is None or lora.start_from is None:
        return {}
    file = task.context.workspace.root / Path(lora.start_from).expanduser()
    return {"started_from": file.name, "started_from_sha256": file_sha256(file)}


def _inputs(task: _Task) -> Inputs:
    """All that decides the result: a checkpoint of anything else is of no use."""
    family = task.family
    return {
        **task.context.settings.identity(),
        **_start(task),
        "style": task.context.style,
        "variant": task.context.variant,
        "training_seed": task.context.training_seed,
        "the base model's weights": family.revision,
        "the pictures, captions and negatives": task.inputs.data_sha256,
        "the test pictures": [example.id for example in task.inputs.held_out],
        "the device": str(family.device),
        "the number type": str(family.dtype),
        "the version of nsync-pipeline": __version__,
        "the version of torch": torch.__version__,
    }
