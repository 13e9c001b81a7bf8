"""What is known of a trained variant where it is shared: its weights, and the facts about them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from nsync_pipeline.adaptation.lora_file import LoraHeader, read_lora_file
from nsync_pipeline.adaptation.saved_steps import chosen_weights
from nsync_pipeline.adaptation.textual_inversion import trained_style_word
from nsync_pipeline.contrast.config import UpdateRule
from nsync_pipeline.drawing.prompts import style_phrase
from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.export.kohya import LoraShape, SharedModel
from nsync_pipeline.families.config import public_name
from nsync_pipeline.params import Params
from nsync_pipeline.report.trainings import read_training
from nsync_pipeline.samples.config import GenerationConfig
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.workspace import (
    EMBEDDINGS_FILE,
    LORA_FILE,
    Workspace,
    trained_files,
)

RULES: Mapping[UpdateRule, str] = {
    "none": "plain fine-tuning",
    "orthogonal": "NSYNC: each gradient less its part along the negatives' gradient",
    "orthogonal_anchor": "NSYNC with an anchor: each gradient less its part along the negatives' "
    "gradient, plus its part along the anchor's",
    "mean": "the mean of the branches' gradients",
    "released": "as the code computes it that NSYNC's authors released",
    "safeguarded": "each gradient less the negatives', as far as leaves the positives' descent",
    "preference": "Diffusion-DPO with a supervised term: the pictures are preferred to the base's",
    "prior_preservation": "DreamBooth's prior preservation: the base's pictures at their prompts",
    "class_preservation": "the base's predictions at the generic prompt are kept",
    "contrastive_target": "contrastive flow matching, away from the base's picture",
    "slider": "as a visual concept slider: the base's pictures at mirrored weights",
    "negative_aware": "as DiffusionNFT: the base's pictures by mirrored predictions",
    "differential": "on top of a LoRA that learned the base's pictures before, and is not here",
}
"""What an update rule does, for somebody who knows no other (``contrast.rules``)."""


@dataclass(frozen=True)
class TrainedVariant:
    """A variant's weights, and what is said of them."""

    model: SharedModel
    lora: tuple[LoraHeader, dict[str, Tensor]] | None
    embeddings: Path | None  # the file of token vectors
    vectors: int  # of a text encoder
    word: str  # what prompts call the style
    rule: str  # the update rule, and what it does
    summary: Mapping[str, Any]  # training.json
    training_seed: int
    place: Path  # the folder with the weights
    step: int | None  # after which they were saved; None: the training's own
    generation: GenerationConfig  # how its samples are drawn


def read_trained_variant(
    workspace: Workspace,
    params: Params,
    style: str,
    variant: str,
    training_seed: int,
    author: str | None = None,
    step: int | None = None,
) -> TrainedVariant:
    """Read what the training stage left; ``author`` is who shares it.

    Its weights are those that were saved after ``step``; None: that a person chose, else its own.

    Raises:
        ParamsError: there is no such style, variant or training seed.
        MissingArtifactError: the variant is not trained yet, or by another version; or there are
            no such weights.
    """
    settings = params.style(style)
    run = params.training_run(variant, training_seed)
    folder = workspace.model(style, variant, run.training_seed)
    if not trained_files(folder):
        raise MissingArtifactError(
            f"{folder} holds nothing trained: run the training stage of {variant!r} on {style!r} "
            f"at training seed {run.training_seed} first."
        )
    _, summary = read_training(workspace, style, run)
    training, origin = _settings(summary, folder), summary["origin"]
    chosen = settings.use_steps.get(run.name)
    place = chosen_weights(folder, chosen, f"{style}, {run.name}", step)
    has_lora = (place / LORA_FILE).is_file()
    lora = read_lora_file(place / LORA_FILE) if has_lora else None
    embeddings = place / EMBEDDINGS_FILE
    word = trained_style_word(embeddings, settings.placeholder)
    base = public_name(origin["base_model"])
    rule = f"`{training.update_rule}` ({RULES[training.update_rule]})"
    model = SharedModel(
        title=f"{style.replace('_', ' ')} ({variant})",
        description=f"The style “{style.replace('_', ' ')}” for {base}, trained by nsync-pipeline "
        f"with the update rule {training.update_rule}.",
        style=style,
        variant=variant,
        architecture=origin["architecture"],
        base_model=base,
        base_revision=origin["base_revision"],
        prediction_type=origin["prediction_type"],
        resolution=int(origin["resolution"]),
        trigger_phrase=style_phrase(word),
        rights=settings.rights,
        license=settings.license,
        author=author,
        lora=None if lora is None else _shape(*lora),
        pictures=summary["pictures"],
        batch_size=training.batch_size,
        settings=_kohya_settings(training, origin),
    )
    inversion = training.textual_inversion
    return TrainedVariant(
        model, lora, embeddings if embeddings.is_file() else None,
        0 if inversion is None else inversion.vectors, word, rule, summary, run.training_seed,
        place, None if place == folder else int(place.name), params.generation,
    )  # fmt: skip


def embeddings_name(model: SharedModel) -> str:
    """What the file of token vectors is called; ComfyUI's prompts name it without its ending."""
    return f"{model.style}_{model.variant}_embeddings.safetensors"


def _settings(summary: Mapping[str, Any], folder: Path) -> TrainingConfig:
    try:
        missing = {"architecture", "prediction_type", "resolution"} - summary["origin"].keys()
        if missing:
            raise ValueError(f"its origin has no {min(missing)}")
        return TrainingConfig.model_validate_json(json.dumps(summary["settings"]))
    except (ValidationError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise MissingArtifactError(
            f"{folder} was trained by another version of this pipeline: run the training stage "
            f"again. ({reason})"
        ) from error


def _shape(header: LoraHeader, tensors: Mapping[str, Tensor]) -> LoraShape:
    adapter = next(iter(header.adapters.values()))
    convolutions = [
        tensor.shape[0]
        for key, tensor in tensors.items()
        if key.endswith("lora_A.weight") and tensor.dim() == 4 and max(tensor.shape[2:]) > 1
    ]
    return LoraShape(
        rank=adapter.rank,
        alpha=adapter.alpha,
        dora=any(one.dora for one in header.adapters.values()),
        kind=adapter.kind,
        factor=adapter.factor,
        convolution_rank=max(set(convolutions), key=convolutions.count) if convolutions else None,
    )


def _kohya_settings(training: TrainingConfig, origin: Mapping[str, str]) -> dict[str, str]:
    rate = training.learning_rate
    said = {
        "caption_dropout_rate": training.caption_dropout,
        "gradient_accumulation_steps": training.accumulation,
        "gradient_checkpointing": training.gradient_checkpointing,
        "learning_rate": rate,
        "lr_scheduler": training.schedule,
        "lr_warmup_steps": training.warmup_steps,
        "max_grad_norm": training.max_gradient_norm,
        "max_train_steps": training.steps,
        "optimizer": f"{training.optimizer}(weight_decay={training.weight_decay:g})",
        "seed": origin["seed"],
        "text_encoder_lr": training.text_encoder_learning_rate or rate,
        "unet_lr": rate,
    }
    return {name: str(value) for name, value in said.items()}
