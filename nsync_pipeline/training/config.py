"""The settings of a training: shared ones, and what a variant changes."""

from typing import Any, Literal

from pydantic import Field, model_validator

from nsync_pipeline.adaptation.config import LoraSettings, TextualInversionSettings
from nsync_pipeline.contrast.config import (
    BY_BASE,
    MIRRORED,
    ON_TOP,
    BranchMode,
    ContrastConfig,
    UpdateRule,
    require_meaning,
)
from nsync_pipeline.diffusion.config import ObjectiveConfig
from nsync_pipeline.drawing.config import GuidanceConfig, require_guidance
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.settings import Phrase, Section, StageSettings, changes_of, later, of_params


class WatchConfig(Section):
    """``training.watch`` in params.yaml: pictures drawn on the way, and what scores them.

    It decides which pictures are drawn, and nothing of the training, but for ``training.keep``
    ``best``, which goes by the score.
    """

    every: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="optimizer steps between looks; there is one before the first step and one at "
        "the end, too; 0: none",
    )
    prompts: int = Field(
        default=6,
        ge=1,
        le=64,
        description="training captions drawn at each look, each at its own fixed seed",
    )
    own_prompts: tuple[Phrase, ...] = later(
        (),
        max_length=16,
        description="drawn at each look, too, and counted in no score: what the pictures shall "
        "show, without the style, whose name is put behind it as `nsync generate` does",
    )
    steps: int = Field(default=12, ge=1, le=1000, description="denoising steps of DPM-Solver++ 2M")
    guidance_scale: float = Field(
        default=5.0, ge=1.0, le=50.0, description="of classifier-free guidance; 1 is none"
    )
    guidance: GuidanceConfig = later(GuidanceConfig())
    extractor: str | None = Field(
        default="sketchbook",
        min_length=1,
        description="what scores the style, as `evaluation.extractor`; null: pictures without a "
        "score",
    )
    extractor_revision: str | None = Field(default=None, description="the hub revision to pin")

    @model_validator(mode="after")
    def _the_guidance_has_an_effect(self) -> "WatchConfig":
        require_guidance(self.guidance, self.guidance_scale)
        return self


class TagsConfig(Section):
    """``training.tags`` in params.yaml: captions as lists of tags, in another wording each time.

    The wordings are drawn beforehand, ``wordings`` a caption; one of them is drawn for each
    triplet, and its negatives have the same. What is drawn and measured has the captions as they
    are.
    """

    shuffle: bool = Field(default=False, description="the tags in another order each time")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of the tags that are left out of a wording"
    )
    keep_first: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="so many stay in front and are never left out, those of captioning.prefix too",
    )
    keep_last: int = Field(
        default=0, ge=0, le=1000, description="likewise at the end, as of captioning.suffix"
    )
    separator: str = Field(
        default=",", min_length=1, max_length=8, description="what stands between tags"
    )
    wordings: int = Field(
        default=8,
        ge=1,
        le=64,
        description="of each caption; so many prompts a caption are encoded and kept",
    )

    @property
    def changes_captions(self) -> bool:
        return self.shuffle or self.dropout > 0


MOST_SAVED = 500
"""Weights that one training saves on the way: each is a file, or two."""


class SaveConfig(Section):
    """``training.save`` in params.yaml: weights saved on the way, beside the last.

    Each can be drawn with, compared, exported and chosen (docs/watching.md).
    """

    every: int = Field(
        default=0, ge=0, le=10_000_000, description="optimizer steps between them; 0: none"
    )
    last: int | None = Field(
        default=None,
        ge=1,
        le=MOST_SAVED,
        description="only so many, the latest before the end; null: all",
    )

    def steps(self, of: int) -> tuple[int, ...]:
        """After which of a training's steps weights are saved."""
        every = range(self.every, of, self.every) if self.every else range(0)
        return tuple(every if self.last is None else every[-self.last :])


Schedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"]


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
    optimizer: Literal["adamw", "adamw_8bit", "adafactor", "prodigy", "adamw_schedule_free"] = (
        Field(
            default="adamw",
            description="adamw_8bit keeps its moments in 8 bits, and needs bitsandbytes; prodigy "
            "finds the rate itself (`learning_rate` is 1), adamw_schedule_free needs no schedule: "
            "both are extras",
        )
    )
    optimizer_betas: tuple[float, float] | None = later(
        None, description="of all but adafactor; the optimizer's own where null"
    )
    optimizer_eps: float | None = later(
        None, gt=0, le=1.0, description="likewise; the optimizer's own where null"
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=1.0, description="at its highest")
    text_encoder_learning_rate: float | None = Field(
        default=None, gt=0, le=1.0, description="of the text encoders' LoRA; null: `learning_rate`"
    )
    embedding_learning_rate: float | None = Field(
        default=None, gt=0, le=1.0, description="of trained token vectors; null: `learning_rate`"
    )
    schedule: Schedule = Field(
        default="cosine", description="of the learning rates after the warm-up (docs/training.md)"
    )
    schedule_cycles: int = Field(
        default=1, ge=1, le=10_000, description="how often `cosine_with_restarts` starts"
    )
    schedule_power: float = Field(
        default=1.0, gt=0, le=100, description="of `polynomial`; 1 is `linear`"
    )
    warmup_steps: int = Field(
        default=0, ge=0, le=1_000_000, description="optimizer steps of linear rise, in any schedule"
    )
    autocast: bool | Literal["auto"] = later(
        False,
        description="products are taken in bfloat16 (float16 where the base is in it), those of "
        "what is trained, too; its weights, gradients and sums stay float32; auto: on a CPU that "
        "has instructions for bfloat16",
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1.0, description="of AdamW, on the LoRA")
    embedding_weight_decay: float = later(
        0.0, ge=0, le=1.0, description="of AdamW, on token vectors: towards zero"
    )
    max_gradient_norm: float | None = Field(
        default=1.0, gt=0, description="the refined gradient is clipped to it; null: not clipped"
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="of a running average of the trained weights, which is saved in their place; "
        "null: none",
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="which weights are saved; best: of the look with the best score "
        "(`watch.every`)",
    )
    save: SaveConfig = later(SaveConfig())
    shared_noise: bool = Field(
        default=False,
        description="a triplet's branches share timestep and noise; the paper's are independent",
    )
    caption_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of triplets trained on the empty prompt"
    )
    content_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the other triplets trained on `in the style of {placeholder}` alone",
    )
    tags: TagsConfig = later(TagsConfig())
    resize: Literal["crop", "stretch"] = later(
        "crop",
        description="how pictures and negatives are brought to the size they are trained at: the "
        "largest centred part of its aspect, or all of them, their aspect not kept",
    )
    random_flip: Literal["together", "each"] | None = later(
        None,
        description="half of the pictures are trained on as their mirror images, drawn at random "
        "for each triplet (its branches alike), or for each of its branches; null: none",
    )
    negatives_of: Literal["same", "other"] = Field(
        default="same",
        description="negatives have their positive's content, or another training picture's",
    )
    branches: BranchMode = Field(
        default="auto", description="one pass for all branches, or one each; the gradients agree"
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="compute the denoiser's activations again on the way back: less memory, "
        "about a third more time",
    )
    contrast: ContrastConfig = ContrastConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    lora: LoraSettings | None = Field(
        default=LoraSettings(), description="what of the models is adapted; null: no LoRA"
    )
    textual_inversion: TextualInversionSettings | None = Field(
        default=None, description="token vectors that are trained; null: none"
    )
    watch: WatchConfig = WatchConfig()
    checkpoint_every: int = Field(
        default=20,
        ge=1,
        le=1_000_000,
        description="optimizer steps between checkpoints, and between held-out losses; one is "
        "left out while another takes long to write",
    )
    checkpoint_minutes: float | None = Field(
        default=None,
        gt=0,
        description="where so many minutes have passed without a checkpoint, there is one; null: "
        "only by steps",
    )

    @model_validator(mode="after")
    def _something_is_trained(self) -> "TrainingConfig":
        if self.lora is None and self.textual_inversion is None:
            raise ValueError("lora and textual_inversion are both null: nothing would be trained")
        return self

    @model_validator(mode="after")
    def _optimizer_fits(self) -> "TrainingConfig":
        name, rates = self.optimizer, (
            self.text_encoder_learning_rate, self.embedding_learning_rate
        )  # fmt: skip
        own = self.optimizer_betas is not None or self.optimizer_eps is not None
        if name == "adafactor" and own:
            raise ValueError("optimizer_betas and optimizer_eps are not for adafactor: leave them")
        if self.optimizer_betas and not all(0 <= beta < 1 for beta in self.optimizer_betas):
            raise ValueError("optimizer_betas are two numbers from 0 to below 1")
        if name == "prodigy" and any(rate not in (None, self.learning_rate) for rate in rates):
            raise ValueError(
                "prodigy finds one rate for all weights: leave text_encoder_learning_rate and "
                "embedding_learning_rate out"
            )
        if name == "prodigy" and self.lora is not None and self.lora.rate_ratio != 1.0:
            raise ValueError("prodigy finds one rate for all weights: leave lora.rate_ratio out")
        if name == "adamw_schedule_free" and (
            self.schedule != "constant" or self.ema_decay is not None
        ):
            raise ValueError(
                "adamw_schedule_free averages the weights itself: set schedule to constant, and "
                "ema_decay to null"
            )
        return self

    @model_validator(mode="after")
    def _best_has_a_score(self) -> "TrainingConfig":
        if self.keep == "best" and not (self.watch.every and self.watch.extractor):
            raise ValueError(
                "keep is best, which goes by the score of looks: set watch.every above 0, and "
                "watch.extractor"
            )
        return self

    @model_validator(mode="after")
    def _there_is_as_much_to_save(self) -> "TrainingConfig":
        every, last, there = self.save.every, self.save.last, len(self.save.steps(self.steps))
        if not every and last is not None:
            raise ValueError("save.last says how many of save.every are kept: set save.every")
        if every and not there:
            raise ValueError(
                f"save.every is {every}, and there are {self.steps} steps: nothing would be saved "
                "on the way"
            )
        if last is not None and there < last:
            raise ValueError(
                f"save.last is {last}, and save.every {every} of {self.steps} steps gives {there}: "
                "lower one of them"
            )
        if there > MOST_SAVED:
            raise ValueError(
                f"save.every {every} of {self.steps} steps would save {there} times, and "
                f"{MOST_SAVED} is the most: raise it, or set save.last"
            )
        return self

    @model_validator(mode="after")
    def _contrast_belongs_to_the_rule(self) -> "TrainingConfig":
        require_meaning(self.update_rule, self.contrast)
        if self.contrast.metric == "optimizer" and self.optimizer != "adamw":
            raise ValueError(
                f"contrast.metric optimizer needs AdamW's second moments in full, which "
                f"{self.optimizer} does not keep: set optimizer to adamw, or leave the metric out"
            )
        return self

    @model_validator(mode="after")
    def _the_base_is_beneath(self) -> "TrainingConfig":
        rule = self.update_rule
        if rule not in BY_BASE | MIRRORED | ON_TOP:
            return self
        if self.lora is None or self.textual_inversion is not None:
            what = "compares with the base without its LoRA"
            if rule in ON_TOP:
                what = "trains one LoRA on top of another"
            raise ValueError(
                f"update_rule {rule} {what}, which token vectors are no part of: set lora, and "
                "textual_inversion to null"
            )
        factors = not self.lora.dora and self.lora.start not in ("pissa", "olora")
        fresh = self.lora.kind == "lora" and self.lora.start_from is None
        if rule in ON_TOP and not (factors and fresh):
            raise ValueError(
                f"update_rule {rule} adds two fresh LoRAs, which must be their two factors alone: "
                "leave lora.dora, lora.kind and lora.start_from out, and set lora.start to "
                "kaiming, gaussian or orthogonal"
            )
        if rule in MIRRORED and not factors:
            raise ValueError(
                f"update_rule {rule} mirrors what the LoRA adds, which must be its two factors "
                "alone: set lora.dora to false, and lora.start to kaiming, gaussian or orthogonal"
            )
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


class TrainingSettings(StageSettings):
    """What the stage ``training`` reads."""

    seed: int = of_params("seed")
    placeholder: str = of_params("styles.{style}.placeholder")
    generic_style: str = of_params("styles.{style}.generic_style")
    base_model: BaseModelConfig = of_params("base_model")
    training: TrainingConfig = of_params("training", "variants.{variant}")

    def identity(self) -> dict[str, Any]:
        """Without what only observes or saves memory: it may change while a training is under way.

        With ``keep`` ``best`` the looks decide which weights are kept, and ``watch`` counts, but
        for prompts that no score counts.
        """
        content = super().identity()
        training, memory = content["training"], content["base_model"]["memory"]
        del training["checkpoint_every"], training["checkpoint_minutes"]
        for saved in ("group_offload", "offload", "release_text_encoders", "vae_slicing"):
            memory.pop(saved, None)
        training["watch"].pop("own_prompts", None)
        if self.training.keep != "best":
            del training["watch"]
        return content
