"""How pictures are drawn: the negatives and the results share it, but for the guidance."""

from typing import Literal

from pydantic import Field, model_validator

from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.settings import Section, later


class SamplerConfig(Section):
    """A sampler's settings."""

    scheduler: Literal["model", "dpm", "ddim", "euler", "pndm"] = Field(
        default="dpm", description="`dpm` is DPM-Solver++ 2M; `model` keeps the model's own"
    )
    steps: int = Field(default=20, ge=1, le=1000, description="denoising steps")
    guidance_scale: float = Field(
        default=5.0, ge=1.0, le=50.0, description="of classifier-free guidance; 1 is none"
    )
    batch_size: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="pictures drawn at once; on a CPU, where each is drawn by itself, only how "
        "many are kept at once",
    )
    dtype: Literal["base", "auto", "float32", "bfloat16", "float16"] = Field(
        default="base",
        description="of the denoiser's weights while it draws; base: base_model.dtype; auto: "
        "bfloat16 on a CPU that has instructions for it (about four fifths of the time; pictures "
        "come out a little otherwise), else as base",
    )

    def base(self, base_model: BaseModelConfig) -> BaseModelConfig:
        """``base_model`` as it draws with these settings."""
        dtype: str = self.dtype
        if dtype == "auto":
            # Only here: settings are read by what needs no torch.
            from nsync_pipeline.families.placement import choose_device, multiplies_bfloat16

            here = choose_device(base_model.device)
            dtype = "bfloat16" if multiplies_bfloat16(here) else "base"
        own = {} if dtype == "base" else {"dtype": dtype}
        return base_model.model_copy(update=own)


GuidanceForm = Literal["ordinary", "base_empty", "difference"]


class GuidanceConfig(Section):
    """How what was trained takes part in guidance; the negatives, of the base alone, have none.

    With ``b`` the frozen base's prediction, ``l`` that with what was trained, ``c`` the prompt,
    ``0`` the empty one, ``g`` the sampler's ``guidance_scale`` and ``w`` the ``weight``, a step
    goes along

    - ordinary: ``l(0) + g (l(c) - l(0))``, two predictions;
    - base_empty: ``b(0) + g (l(c) - b(0))``, two;
    - difference: ``b(0) + g (b(c) - b(0)) + w (l(c) - b(c))``, three.
    """

    form: GuidanceForm = Field(
        default="ordinary",
        description="base_empty: the empty prompt is predicted without what was trained; "
        "difference: the base's own guidance, and `weight` times what training changed",
    )
    weight: float = Field(
        default=1.5, ge=0.0, le=50.0, description="of difference: 1 adds the change as it is"
    )
    lora_strength: float = Field(
        default=1.0, ge=-100.0, le=100.0, description="of the LoRA: 1 as trained, 0 not at all"
    )

    @model_validator(mode="after")
    def _the_weight_has_an_effect(self) -> "GuidanceConfig":
        default = type(self).model_fields["weight"].default
        if self.form != "difference" and self.weight != default:
            raise ValueError(
                f"weight has no effect with form {self.form}: leave it out, or set form to "
                "difference"
            )
        return self

    @property
    def key(self) -> str:
        """A name for a folder, another for each: ``ordinary_1.5``, ``difference_1_by_1.5``."""
        weight = f"_by_{_short(self.weight)}" if self.form == "difference" else ""
        return f"{self.form}_{_short(self.lora_strength)}{weight}"

    @property
    def amount(self) -> float:
        """How strong it is within its form: the strength, times a difference's weight."""
        return self.lora_strength * (self.weight if self.form == "difference" else 1.0)

    @property
    def words(self) -> str:
        """``strength 1.5``, ``difference at weight 1.5``, ``base_empty, strength 0.5``."""
        strength = f"strength {_short(self.lora_strength)}"
        if self.form == "ordinary":
            return strength
        if self.form == "base_empty":
            return f"base_empty, {strength}"
        of_it = "" if self.lora_strength == 1.0 else f", {strength}"
        return f"difference at weight {_short(self.weight)}{of_it}"

    @property
    def said(self) -> str:
        """As it is written in ``params.yaml``: what is not at its default, ``{form: difference}``.

        The weight of a difference is always said.
        """
        told = self.model_dump(exclude_defaults=True)
        if self.form == "difference":
            told["weight"] = self.weight
        values = (v if isinstance(v, str) else _short(v) for v in told.values())
        return "{" + ", ".join(f"{k}: {v}" for k, v in zip(told, values, strict=True)) + "}"

    @property
    def options(self) -> str:
        """The same as options of ``nsync generate`` and ``nsync compare``."""
        weight = f" --guidance-weight {_short(self.weight)}" if self.form == "difference" else ""
        return f"--guidance-form {self.form}{weight} --lora-scale {_short(self.lora_strength)}"


def _short(value: float) -> str:
    """All its digits, without ``.0``; YAML takes ``1e-05`` for a text, and ``1.0e-05`` for none."""
    text = str(value).removesuffix(".0")
    return text.replace("e", ".0e") if "." not in text else text


ORDINARY = GuidanceConfig()

MOST_POINTS = 32


class DrawnWays(Section):
    """In which ways what was trained draws: ``guidance``, and ``points`` to compare it with."""

    guidance: GuidanceConfig = later(GuidanceConfig())
    points: tuple[GuidanceConfig, ...] = later(
        (),
        max_length=MOST_POINTS,
        description="further ways of drawing, each with the keys of `guidance`: the captions are "
        "drawn at each of them, too, for a curve of style against content",
    )

    @property
    def ways(self) -> tuple[GuidanceConfig, ...]:
        """``guidance`` first; each way once."""
        return tuple(dict.fromkeys((self.guidance, *self.points)))


def require_guidance(guidance: GuidanceConfig, guidance_scale: float) -> None:
    """Raise ``ValueError`` where the form has no effect at the sampler's scale."""
    if guidance.form == "base_empty" and guidance_scale == 1.0:
        raise ValueError(
            "guidance.form base_empty has no effect with guidance_scale 1, where nothing is "
            "predicted at the empty prompt: raise guidance_scale, or take ordinary or difference"
        )
