"""What is trained on top of the frozen base."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from nsync_pipeline.settings import Section, later

AdapterKind = Literal["lora", "lokr", "loha"]
"""What is put on a layer; ``lycoris`` says what the last two are."""

LoraStart = Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora"]
"""How LoRA's factors start; ``lora_start`` says what each is."""

Targets = tuple[str, ...] | str
"""Which layers: endings of their names, or one regular expression that matches whole names."""


class LoraSettings(Section):
    """Low-rank adapters on the denoiser, and on the text encoders where asked (PEFT)."""

    rank: int = Field(default=8, ge=1, le=1024, description="of the two factors")
    alpha: float = Field(default=8.0, gt=0, le=4096, description="scale is alpha / rank")
    targets: Targets | None = Field(
        default=None,
        description="the denoiser's adapted layers: a list of name endings, or one regular "
        "expression for whole names; the family's own where null",
    )
    ranks: dict[str, int] = Field(
        default={},
        description="ranks by regular expressions for the ends of layer names; the first that "
        "matches counts; all others have `rank`",
    )
    alphas: dict[str, float] = Field(
        default={}, description="alphas in the same way; all others have `alpha`"
    )
    rank_stabilized: bool = Field(
        default=False, description="scale is alpha / sqrt(rank) instead (rsLoRA)"
    )
    dora: bool = Field(
        default=False,
        description="a trained length for each output beside its direction (DoRA); its branches "
        "are taken in turn",
    )
    start: LoraStart = Field(
        default="kaiming",
        description="of the factors; pissa and olora start from the base's own weights, and their "
        "file has twice the rank",
    )
    kind: AdapterKind = later(
        "lora",
        description="of adapter; lokr (a Kronecker product) and loha (a Hadamard product of two "
        "LoRAs) are on the denoiser alone",
    )
    factor: int | None = later(
        None,
        ge=2,
        le=1024,
        description="of lokr: into so many parts each side is cut; null: near its square root",
    )
    dropout: float = later(
        0.0, ge=0, lt=1, description="share of a layer's inputs that its LoRA does not see a step"
    )
    rate_ratio: float = later(
        1.0, gt=0, le=1000, description="learning rate of B over that of A (LoRA+)"
    )
    start_from: str | None = later(
        None,
        min_length=1,
        description="a file with an existing adapter of this shape that the training goes on "
        "from; `start` is for fresh ones",
    )
    text_encoder: bool = Field(default=False, description="adapt the CLIP text encoder(s) too")
    text_encoder_targets: Targets = Field(
        default=("q_proj", "k_proj", "v_proj", "out_proj"),
        description="their adapted layers, given as `targets` are",
    )

    @field_validator("targets", "text_encoder_targets")
    @classmethod
    def _named(cls, value: Targets | None) -> Targets | None:
        if value is not None and (not value or not all(value)):
            raise ValueError("it names no layer")
        if isinstance(value, str):
            _require_regular_expression(value)
        return value

    @field_validator("ranks")
    @classmethod
    def _ranks(cls, value: dict[str, int]) -> dict[str, int]:
        for pattern, rank in value.items():
            _require_regular_expression(pattern)
            if not 1 <= rank <= 1024:
                raise ValueError(f"{pattern}: a rank is from 1 to 1024, not {rank}")
        return value

    @field_validator("alphas")
    @classmethod
    def _alphas(cls, value: dict[str, float]) -> dict[str, float]:
        for pattern, alpha in value.items():
            _require_regular_expression(pattern)
            if not 0 < alpha <= 4096:
                raise ValueError(f"{pattern}: an alpha is above 0 and at most 4096, not {alpha}")
        return value

    @model_validator(mode="after")
    def _together(self) -> "LoraSettings":
        if self.kind != "lora":
            own = {"factor"} if self.kind == "lokr" else set()
            for name in sorted(_OF_LORA - own):
                if getattr(self, name) != LoraSettings.model_fields[name].default:
                    raise ValueError(f"{name} is not for kind {self.kind}: leave it out")
        elif self.factor is not None:
            raise ValueError("factor is for kind lokr: leave it out")
        if self.start_from is not None and self.start != "kaiming":
            raise ValueError(
                f"start_from gives the weights, which start {self.start} would draw: leave one out"
            )
        if self.dora and self.start in ("pissa", "olora", "orthogonal"):
            raise ValueError(f"dora goes with start kaiming or gaussian, not with {self.start}")
        odd = [rank for rank in (self.rank, *self.ranks.values()) if rank % 2]
        if self.start == "orthogonal" and odd:
            raise ValueError(f"start orthogonal needs even ranks, and one is {odd[0]}")
        return self


_OF_LORA = frozenset(
    {"dora", "dropout", "factor", "rank_stabilized", "rate_ratio", "start", "text_encoder"}
)
"""What the other kinds do not have."""


class TextualInversionSettings(Section):
    """Token vectors of the style's own, in every text encoder; the rest of the tables is frozen."""

    vectors: int = Field(
        default=1, ge=1, le=32, description="a text encoder; each takes one token of the prompt"
    )
    initializer: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="words the vectors start from; the style's generic_style where null",
    )
    noise: float = Field(
        default=0.1,
        ge=0,
        le=10,
        description="on vectors beyond the initializer's own tokens, which start from its mean; "
        "in units of that mean's root mean square",
    )


def _require_regular_expression(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
