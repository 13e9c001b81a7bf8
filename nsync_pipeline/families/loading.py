"""Loading the base model that the settings name."""

import re
from pathlib import Path

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import BaseModelConfig, FamilyName
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.flux_1 import Flux1, is_told_guidance
from nsync_pipeline.families.flux_2_klein import Flux2Klein
from nsync_pipeline.families.krea_2 import Krea2
from nsync_pipeline.families.latent_diffusion import LatentDiffusion
from nsync_pipeline.families.pipeline_folder import PipelineFolder, find_pipeline, with_components
from nsync_pipeline.families.placement import place
from nsync_pipeline.families.qwen_image import QwenImage
from nsync_pipeline.families.stable_diffusion import StableDiffusion
from nsync_pipeline.families.stable_diffusion_3 import StableDiffusion3
from nsync_pipeline.families.stable_diffusion_xl import StableDiffusionXL
from nsync_pipeline.families.z_image import ZImage

FAMILIES: dict[FamilyName, type[LatentDiffusion]] = {
    "stable_diffusion": StableDiffusion,
    "stable_diffusion_xl": StableDiffusionXL,
    "stable_diffusion_3": StableDiffusion3,
    "z_image": ZImage,
    "flux_1": Flux1,
    "flux_2_klein": Flux2Klein,
    "qwen_image": QwenImage,
    "krea_2": Krea2,
}


def load_family(config: BaseModelConfig) -> Family:
    """The base model that ``config`` names: frozen, in eval, on its device.

    Raises:
        BaseModelError: it cannot be found, reached or loaded, or is of another family; or the
            device it is asked for is not there.
    """
    placement = place(config)
    family, folder = find_base(config)
    folder = with_components(folder, family.components)
    _refuse_distilled(family, folder)
    return family(folder, config.resolution, placement)


def find_base(config: BaseModelConfig) -> tuple[type[LatentDiffusion], PipelineFolder]:
    """The base model that ``config`` names, and its class; of a hub model, the index alone.

    Raises:
        BaseModelError: it cannot be found or reached, or is of another family than asked for.
    """
    folder = find_pipeline(config)
    found = folder.index.get("_class_name")
    family = next((n for n, loader in FAMILIES.items() if loader.pipeline_class == found), None)
    if family is None:
        taken = ", ".join(
            loader.models for name, loader in FAMILIES.items() if config.family in ("auto", name)
        )
        raise BaseModelError(
            f"base_model.name: {folder.name} is a {found}, which is of no family here: taken are "
            f"{taken}."
        )
    kind = folder.checkpoint_kind
    if kind is not None and kind.family != family:
        raise BaseModelError(
            f"base_model.config: {folder.path} is a {found} ({family}), and {folder.name} is of "
            f"the family {kind.family}: give the settings it was made with."
        )
    if config.family not in ("auto", family):
        raise BaseModelError(
            f"{folder.name} is a {found} ({FAMILIES[family].models}), and base_model.family is "
            f"{config.family}: set it to {family}, or to auto."
        )
    _refuse_distilled(FAMILIES[family], folder)
    return FAMILIES[family], folder


def _refuse_distilled(family: type[LatentDiffusion], folder: PipelineFolder) -> None:
    if (distilled := _distilled(folder)) is not None:
        raise BaseModelError(
            f"base_model.name: {folder.name} is distilled ({distilled}): it draws in few steps, "
            "and what is trained on it undoes that and learns badly. Train on the model it was "
            f"distilled from, such as {family.base_id}."
        )


DISTILLED = frozenset({"dmd", "dmd2", "hyper", "lcm", "lightning", "schnell", "turbo"})
"""Words in names of models that draw in few steps."""
SIZED_KLEIN = re.compile(r"klein\W?_?[49]b")
"""FLUX.2 klein as its authors call the distilled one; the other is called base before its size."""


def _distilled(folder: PipelineFolder) -> str | None:
    """How it is known that the model draws in few steps; None where it does not."""
    if folder.index.get("is_distilled"):
        return "its model_index.json says so"
    names = (folder.name, str(folder.index.get("_name_or_path") or ""))
    for name in names:
        last = Path(name).name.lower()
        if found := DISTILLED.intersection(re.split(r"[^a-z0-9]+", last)):
            return f"by {min(found)!r} in its name {last}; rename it where it is not"
        says_not = folder.checkpoint is None and folder.index.get("is_distilled") is False
        if SIZED_KLEIN.search(last) and not says_not:
            return f"by its name {last}, which lacks 'base'; rename it where it is not"
    if folder.index.get("_class_name") == Flux1.pipeline_class and not is_told_guidance(folder):
        return "it is told no guidance, as FLUX.1 schnell is not"
    return None
