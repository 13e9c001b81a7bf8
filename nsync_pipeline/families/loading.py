"""Loading the base model that the settings name."""

from collections.abc import Callable
from dataclasses import dataclass

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families import stable_diffusion, stable_diffusion_3, stable_diffusion_xl
from nsync_pipeline.families.config import BaseModelConfig, FamilyName
from nsync_pipeline.families.family import Family, PromptCounter
from nsync_pipeline.families.pipeline_folder import (
    PipelineFolder,
    find_pipeline,
    with_components,
)
from nsync_pipeline.families.placement import Placement, choose_device, choose_dtype, place

__all__ = [
    "FAMILIES",
    "choose_device",
    "choose_dtype",
    "find_base",
    "load_family",
    "tokenizer_of",
]


@dataclass(frozen=True)
class FamilyLoader:
    """How the models of one family are loaded."""

    models: str  # for messages
    pipeline_class: str  # what the index of a diffusers pipeline calls it
    components: tuple[str, ...]  # the pipeline's subfolders a whole model needs
    load: Callable[[PipelineFolder, int | None, Placement], Family]
    tokenizer_components: tuple[str, ...]
    load_tokenizer: Callable[[PipelineFolder], PromptCounter]


FAMILIES: dict[FamilyName, FamilyLoader] = {
    "stable_diffusion": FamilyLoader(
        models="Stable Diffusion 1 or 2",
        pipeline_class=stable_diffusion.PIPELINE_CLASS,
        components=stable_diffusion.COMPONENTS,
        load=stable_diffusion.StableDiffusion,
        tokenizer_components=stable_diffusion.TOKENIZER_COMPONENTS,
        load_tokenizer=stable_diffusion.load_tokenizer,
    ),
    "stable_diffusion_xl": FamilyLoader(
        models="Stable Diffusion XL",
        pipeline_class=stable_diffusion_xl.PIPELINE_CLASS,
        components=stable_diffusion_xl.COMPONENTS,
        load=stable_diffusion_xl.StableDiffusionXL,
        tokenizer_components=stable_diffusion_xl.TOKENIZER_COMPONENTS,
        load_tokenizer=stable_diffusion_xl.load_tokenizer,
    ),
    "stable_diffusion_3": FamilyLoader(
        models="Stable Diffusion 3 or 3.5",
        pipeline_class=stable_diffusion_3.PIPELINE_CLASS,
        components=stable_diffusion_3.COMPONENTS,
        load=stable_diffusion_3.StableDiffusion3,
        tokenizer_components=stable_diffusion_3.TOKENIZER_COMPONENTS,
        load_tokenizer=stable_diffusion_3.load_tokenizer,
    ),
}


def load_family(config: BaseModelConfig) -> Family:
    """The base model that ``config`` names: frozen, in eval, on its device.

    Raises:
        BaseModelError: it cannot be found, reached or loaded, or is of another family; or the
            device it is asked for is not there.
    """
    placement = place(config)
    loader, folder = find_base(config)
    folder = with_components(folder, loader.components)
    return loader.load(folder, config.resolution, placement)


def tokenizer_of(config: BaseModelConfig) -> PromptCounter:
    """What counts the tokens of prompts for the base model, without loading any weights.

    Raises:
        BaseModelError: it cannot be found, reached or loaded.
    """
    loader, folder = find_base(config)
    return loader.load_tokenizer(
        with_components(folder, loader.tokenizer_components, weights=False)
    )


def find_base(config: BaseModelConfig) -> tuple[FamilyLoader, PipelineFolder]:
    """The base model that ``config`` names, and what loads it; of a hub model, the index alone.

    Raises:
        BaseModelError: it cannot be found or reached, or is of another family than asked for.
    """
    folder = find_pipeline(config)
    found = folder.index.get("_class_name")
    family = next((n for n, loader in FAMILIES.items() if loader.pipeline_class == found), None)
    if family is None:
        taken = "; ".join(
            f"{name} takes a {loader.pipeline_class} ({loader.models})"
            for name, loader in FAMILIES.items()
            if config.family in ("auto", name)
        )
        raise BaseModelError(f"{folder.name} is a {found}, which is of no family here: {taken}.")
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
    return FAMILIES[family], folder
