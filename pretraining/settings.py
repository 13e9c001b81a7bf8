"""The settings of the shipped weights: every default is what they were trained with."""

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """Settings that cannot be changed, nor misspelt."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(Frozen):
    """How many pictures are drawn, once, before training."""

    world_pictures: int = Field(40_000, ge=12, description="captioned pictures in seen styles")
    abstract_pictures: int = Field(10_000, ge=4, description="captionless ones, for the VAE")
    judged_pictures: int = Field(24_000, ge=20, description="pictures in all styles, for judges")


class VaeSettings(Frozen):
    """The autoencoder: pictures (3, 128, 128) to latents (C, 32, 32)."""

    latent_channels: int = Field(12, ge=1, description="C, channels of the latents")
    width: int = Field(48, ge=8, description="channels of every layer")
    encoder_blocks: tuple[int, int, int] = Field((1, 1, 3), description="blocks at 128 to 32 px")
    decoder_blocks: tuple[int, int, int] = Field((3, 1, 1), description="blocks at 32 to 128 px")
    steps: int = Field(5_500, ge=1, description="optimizer steps")
    batch: int = Field(32, ge=1, description="crops a step (as many pixels of whole ones)")
    crop: int = Field(32, ge=8, description="side of a training crop, in pixels")
    whole_share: float = Field(0.1, ge=0, le=1, description="last share of steps, whole pictures")
    abstract_share: float = Field(0.3, ge=0, le=1, description="abstract pictures in a batch")
    learning_rate: float = Field(1.5e-3, gt=0, description="peak rate of AdamW")
    latent_noise: float = Field(0.05, ge=0, description="deviation of noise before decoding")
    gradient_weight: float = Field(1.0, ge=0, description="weight of the loss of differences")
    moment_weight: float = Field(0.02, ge=0, description="weight of mean 0, deviation 1")


class ClipSettings(Frozen):
    """The contrastive picture and text model."""

    width: int = Field(128, ge=8, description="width of both transformers")
    layers: int = Field(3, ge=1, description="layers of both transformers")
    heads: int = Field(4, ge=1, description="attention heads")
    feed_forward: int = Field(384, ge=8, description="width inside a layer's MLP")
    patch: int = Field(16, ge=1, description="side of a picture patch, in pixels")
    projection: int = Field(128, ge=2, description="dimensions of the shared space")
    text_length: int = Field(56, ge=8, description="tokens of a prompt, ends included")
    steps: int = Field(2_000, ge=1, description="optimizer steps")
    batch: int = Field(128, ge=2, description="pictures a step")
    learning_rate: float = Field(1e-3, gt=0, description="peak rate of AdamW")


class UnetSettings(Frozen):
    """The latent denoiser; its text encoder starts as CLIP's and is trained along."""

    channels: tuple[int, ...] = Field((48, 64, 160), description="channels at 32 to 8 latent px")
    layers: int = Field(1, ge=1, description="layers a block")
    heads: int = Field(4, ge=1, description="attention heads")
    steps: int = Field(9_000, ge=1, description="optimizer steps")
    batch: int = Field(48, ge=1, description="latents a step")
    shards: int = Field(2, ge=1, description="parts of a batch, each computed by a thread (CPU)")
    learning_rate: float = Field(1e-3, gt=0, description="peak rate of AdamW")
    ema: float = Field(0.9985, ge=0, lt=1, description="decay of the averaged weights")


class JudgeSettings(Frozen):
    """The small classifiers of the quality command."""

    width: int = Field(32, ge=4, description="channels of the first layer")
    steps: int = Field(2_000, ge=1, description="optimizer steps")
    batch: int = Field(96, ge=1, description="pictures a step")
    learning_rate: float = Field(2e-3, gt=0, description="peak rate of AdamW")


class PretrainingSettings(Frozen):
    """All of it; `PretrainingSettings()` is the shipped base."""

    seed: int = Field(20, ge=0, description="of every random draw")
    checkpoint_every: int = Field(200, ge=1, description="steps between checkpoints")
    data: DataSettings = DataSettings()
    vae: VaeSettings = VaeSettings()
    clip: ClipSettings = ClipSettings()
    unet: UnetSettings = UnetSettings()
    judges: JudgeSettings = JudgeSettings()
