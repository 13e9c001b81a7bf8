"""Loading the base model that the settings name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families import stable_diffusion
from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family, PromptCounter
from nsync_pipeline.families.pipeline_folder import PipelineFolder, find_pipeline


@dataclass(frozen=True)
class FamilyLoader:
    """How the models of one family are loaded."""

    components: tuple[str, ...]  # the pipeline's subfolders a whole model needs
    load: Callable[[PipelineFolder, int | None, torch.device, torch.dtype], Family]
    tokenizer_components: tuple[str, ...]
    load_tokenizer: Callable[[PipelineFolder], PromptCounter]


FAMILIES: dict[str, FamilyLoader] = {
    "stable_diffusion": FamilyLoader(
        components=stable_diffusion.COMPONENTS,
        load=stable_diffusion.StableDiffusion,
        tokenizer_components=stable_diffusion.TOKENIZER_COMPONENTS,
        load_tokenizer=stable_diffusion.load_tokenizer,
    ),
}


def load_family(config: BaseModelConfig) -> Family:
    """The base model that ``config`` names: frozen, in eval, on its device.

    Raises:
        BaseModelError: it cannot be found, reached or loaded, or is of another family; or the
            device it is asked for is not there.
    """
    device = choose_device(config.device)
    loader = FAMILIES[config.family]
    folder = find_pipeline(config, loader.components)
    return loader.load(folder, config.resolution, device, choose_dtype(config.dtype, device))


def tokenizer_of(config: BaseModelConfig) -> PromptCounter:
    """What counts the tokens of prompts for the base model, without loading any weights.

    Raises:
        BaseModelError: it cannot be found, reached or loaded.
    """
    loader = FAMILIES[config.family]
    return loader.load_tokenizer(find_pipeline(config, loader.tokenizer_components, weights=False))


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is CUDA, then MPS, then the CPU, by what is there.

    Raises:
        BaseModelError: the device is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there[name]:
        raise BaseModelError(
            f"base_model.device: {name} is asked for, and torch {torch.__version__} finds none "
            "here; `auto` takes what there is."
        )
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number type called ``name``; ``auto`` is bfloat16 on CUDA, else float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtypes = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    return dtypes[name]
