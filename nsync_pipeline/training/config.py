"""The settings of a training: shared ones, and what a variant changes."""

from typing import Literal

from pydantic import Field, model_validator

from nsync_pipeline.adaptation.config import LoraSettings, TextualInversionSettings
from nsync_pipeline.contrast.config import ContrastConfig
from nsync_pipeline.contrast.rules import BranchMode, UpdateRule
from nsync_pipeline.diffusion.config import ObjectiveConfig
from nsync_pipeline.section_changes import changes_of
from nsync_pipeline.strict import Section
from nsync_pipeline.training.watch_config import WatchConfig


class TrainingConfig(Section):
    """``training`` in params.yaml: what every variant starts from."""

    update_rule: UpdateRule = Field(
        default="orthogonal", description="how the positive gradient is refined (docs/method.md)"
    )
    steps: int = Field(default=120, ge=1, le=10_000_000, description="optimizer steps")
    batch_size: int = Field(default=8, ge=1, le=4096, description="triplets a forward pass")
    accumulation: int = Field(
        default=1, ge=1, le=4096, description="micro-batches averaged into one optimizer step"
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=1.0, description="of AdamW, at its highest")
    text_encoder_learning_rate: float | None = Field(
        default=None, gt=0, le=1.0, description="of the text encoders' LoRA; null: `learning_rate`"
    )
    embedding_learning_rate: float | None = Field(
        default=None, gt=0, le=1.0, description="of trained token vectors; null: `learning_rate`"
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        default="cosine", description="of the learning rate after the warm-up"
    )
    warmup_steps: int = Field(default=0, ge=0, le=1_000_000, description="optimizer steps")
    weight_decay: float = Field(
        default=0.0, ge=0, le=1.0, description="of AdamW, on the LoRA; token vectors have none"
    )
    max_gradient_norm: float | None = Field(
        default=1.0, gt=0, description="the refined gradient is clipped to it; null: not clipped"
    )
    shared_noise: bool = Field(
        default=False,
        description="a triplet's branches share timestep and noise; the paper's are independent",
    )
    caption_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of triplets trained on the empty prompt"
    )
    branches: BranchMode = Field(
        default="auto", description="one pass for all branches, or one each; the gradients agree"
    )
    contrast: ContrastConfig = ContrastConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    lora: LoraSettings | None = LoraSettings()
    textual_inversion: TextualInversionSettings | None = None
    watch: WatchConfig = WatchConfig()
    checkpoint_every: int = Field(
        default=20, ge=1, le=1_000_000, description="optimizer steps between checkpoints"
    )

    @model_validator(mode="after")
    def _something_is_trained(self) -> "TrainingConfig":
        if self.lora is None and self.textual_inversion is None:
            raise ValueError("lora and textual_inversion are both null: nothing would be trained")
        return self


class VariantConfig(changes_of(TrainingConfig)):  # type: ignore[misc] # a class made from another
    """One entry of ``variants`` in params.yaml: the rule, and what it changes in ``training``."""

    update_rule: UpdateRule = Field(description="how the positive gradient is refined")

    def settings(self, training: TrainingConfig) -> TrainingConfig:
        """``training`` with this variant's changes in it.

        Raises:
            ValidationError: together they are not what ``training`` may be.
        """
        merged = self.merged_into(training.model_dump())
        return TrainingConfig.model_validate(merged)
