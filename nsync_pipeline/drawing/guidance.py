"""Classifier-free guidance with what was trained: which predictions it takes, and what of them.

The predictions of a step are the parts of one batch, those of the frozen base first: so a step is
one pass of the denoiser, whatever the form.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor

from nsync_pipeline.adaptation.in_use import base_first
from nsync_pipeline.drawing.config import GuidanceConfig
from nsync_pipeline.families.family import Family, PromptEmbeds

GuidedBy = Callable[[Tensor, Tensor, float], Tensor]


def along(empty: Tensor, prompted: Tensor, scale: float) -> Tensor:
    """``e(empty) + scale (e(prompt) - e(empty))``."""
    return empty + scale * (prompted - empty)


@dataclass(frozen=True)
class Part:
    """One of the predictions of a step."""

    by_base: bool  # without what was trained
    prompted: bool  # else at the empty prompt


@dataclass(frozen=True)
class Guidance:
    """What a step predicts, and goes along; ``scale`` is the sampler's."""

    config: GuidanceConfig
    scale: float

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order of the batch: the base's come first."""
        of_model, form = Part(by_base=False, prompted=True), self.config.form
        base = (Part(by_base=True, prompted=True),) if form == "difference" else ()
        if self.scale == 1.0:
            return (*base, of_model)
        return (Part(form != "ordinary", prompted=False), *base, of_model)

    @property
    def by_base(self) -> int:
        """How many of the parts are the base's."""
        return sum(part.by_base for part in self.parts)

    @property
    def needs_empty(self) -> bool:
        return not all(part.prompted for part in self.parts)

    def in_one_pass(self, family: Family) -> AbstractContextManager[None]:
        """While it is open, the denoiser predicts all parts of a batch, each as it is asked."""
        return base_first(family.denoiser, self.by_base, len(self.parts))

    def direction(self, prediction: Tensor, guided_by: GuidedBy = along) -> Tensor:
        """What the sampler is to see, of the parts' predictions (parts * B, C, h, w).

        ``guided_by`` is the family's own guidance, of empty and prompted prediction and scale.
        """
        *others, own = prediction.chunk(len(self.parts))
        if self.config.form == "difference":
            base = others[-1]
            guided = base if self.scale == 1.0 else guided_by(others[0], base, self.scale)
            return guided + self.config.weight * (own - base)
        return own if not others else guided_by(others[0], own, self.scale)


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts by their text: as what was trained has them, and as the base does."""

    own: Mapping[str, PromptEmbeds]
    base: Mapping[str, PromptEmbeds]

    def of(self, parts: Sequence[Part], prompts: Sequence[str]) -> PromptEmbeds:
        """Of the parts one behind the other, each with all ``prompts``."""
        return PromptEmbeds.cat(
            [
                (self.base if part.by_base else self.own)[prompt if part.prompted else ""]
                for part in parts
                for prompt in prompts
            ]
        )
