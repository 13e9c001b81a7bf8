"""Frozen weights: whole, safetensors unless the user says otherwise, never remote code."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import (
    create_diffusers_clip_model_from_ldm,
    create_diffusers_t5_model_from_checkpoint,
)

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.checkpoint_file import denoiser_tensors, read_tensors
from nsync_pipeline.families.config import Quantization
from nsync_pipeline.families.loading_errors import loading_errors
from nsync_pipeline.families.pipeline_folder import (
    HALVES,
    PipelineFolder,
    pickled_files,
    variant_of,
    weight_files,
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' loading bars and remarks off the screen; real trouble raises."""
    shown = [library.utils.logging.get_verbosity() for library in (diffusers, transformers)]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(shown[0])
        transformers.utils.logging.set_verbosity(shown[1])
        if bars:
            transformers.utils.logging.enable_progress_bar()


def load_frozen(
    kind: Any,
    folder: PipelineFolder,
    component: str,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
) -> Any:
    """The model of class ``kind``, a component of ``folder``: in eval, without gradients.

    Raises:
        BaseModelError: the files are missing, broken, or do not have every weight.
    """
    checkpoint = folder.checkpoint_of(component)
    path = checkpoint or folder.path / component
    options = {"subfolder": component, "torch_dtype": dtype, **_quantized(quantization, dtype)}
    with loading_errors(path), quiet_libraries():
        if checkpoint is None:
            model, missing = _from_folder(kind, folder, component, options)
        else:
            model, missing = _from_checkpoint(kind, folder, checkpoint, options)
    if missing:  # the libraries would go on with random numbers in their place
        of = f" of its {component}" if checkpoint else ""
        raise BaseModelError(f"{path} lacks {len(missing)} weights{of}, the first is {missing[0]}.")
    return model.to(device).eval().requires_grad_(False)


def _from_folder(
    kind: Any, folder: PipelineFolder, component: str, options: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    place = folder.path / component
    half = variant_of(place, folder.allow_pickle)
    pickled = [file for of in ("", *HALVES) for file in pickled_files(place, of)]
    if pickled and half is None and not (folder.allow_pickle or weight_files(place)):
        raise BaseModelError(
            f"{place} has only pickled weights ({pickled[0].name}), and only safetensors are "
            "loaded: convert them, or set base_model.allow_pickle to true."
        )
    model, info = kind.from_pretrained(
        folder.path,
        use_safetensors=None if folder.allow_pickle else True,
        variant=half,
        output_loading_info=True,
        **options,
    )
    return model, sorted(info["missing_keys"])


def _from_checkpoint(
    kind: Any, folder: PipelineFolder, checkpoint: Path, options: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """As diffusers converts it; the settings are the folder's."""
    whole = folder.checkpoint_kind is None or folder.checkpoint_kind.holds is None
    tensors = (read_tensors if whole else denoiser_tensors)(checkpoint, folder.allow_pickle)
    common: dict[str, Any] = {"config": str(folder.path), "local_files_only": True, **options}
    if not issubclass(kind, transformers.PreTrainedModel):
        try:
            model = kind.from_single_file(tensors, **common)
        except NotImplementedError as error:  # a weight that is not there cannot be moved
            of = common["subfolder"]
            raise BaseModelError(f"{checkpoint} lacks weights of its {of}.") from error
    elif issubclass(kind, transformers.T5EncoderModel):
        model = create_diffusers_t5_model_from_checkpoint(kind, tensors, **common)
        model.tie_weights()  # its embeddings have two names, and the checkpoint has one
    else:
        model = create_diffusers_clip_model_from_ldm(kind, tensors, **common)
    # What the checkpoint did not have is still without numbers.
    return model, sorted(name for name, weight in model.named_parameters() if weight.is_meta)


def _quantized(quantization: Quantization | None, dtype: torch.dtype) -> dict[str, Any]:
    """What diffusers' loaders are told, beside the rest."""
    if quantization is None:
        return {}
    if quantization == "nf4":
        return {
            "quantization_config": diffusers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        }
    from torchao import quantization as of  # it is optional, and slow to import

    kinds = {"int8": of.Int8WeightOnlyConfig, "fp8": of.Float8WeightOnlyConfig}
    return {"quantization_config": diffusers.TorchAoConfig(kinds[quantization]())}
