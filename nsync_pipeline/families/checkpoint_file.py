"""Single-file checkpoints in the layout their authors released: what one is, by its key names."""

import codecs
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from nsync_pipeline.errors import BaseModelError
from nsync_pipeline.families.config import FamilyName
from nsync_pipeline.given_files import in_its_place

DENOISER = "model.diffusion_model."
VAE = "first_stage_model."
NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Under which of its keys a pickled checkpoint may hold its tensors."""
T5 = "text_encoders.t5xxl.transformer.shared.weight"

COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "vae")
XL_COMPONENTS = (*COMPONENTS, "text_encoder_2", "tokenizer_2", "unet")
SD3_COMPONENTS = (
    *COMPONENTS, "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3", "transformer",
)  # fmt: skip


@dataclass(frozen=True)
class CheckpointKind:
    """What a checkpoint is, and where its settings are published."""

    family: FamilyName
    settings: str | None  # the hub id of the model in diffusers' layout; None: not to be told
    components: tuple[str, ...]  # of that
    undecided: str = ""  # why it cannot be told
    absent: tuple[str, ...] = ()  # components that the family can do without, and the file does
    parts: Mapping[str, str] = field(default_factory=dict)  # what a whole one has, by key start
    lacks: tuple[str, ...] = ()  # of these, what the file does not have
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the scheduler that the file itself says, over those that are published."""
    holds: tuple[str, ...] | None = None  # the components whose weights are in it; None: all


V1 = CheckpointKind(
    "stable_diffusion", "stable-diffusion-v1-5/stable-diffusion-v1-5", (*COMPONENTS, "unet"),
    parts={VAE: "VAE", "cond_stage_model.": "text encoder"},
)  # fmt: skip
V2 = replace(
    V1,
    settings=None,
    undecided="It is a Stable Diffusion 2, and the file does not say whether it predicts the noise "
    "(512 pixels) or v (768 pixels).",
)
XL = CheckpointKind(
    "stable_diffusion_xl", "stabilityai/stable-diffusion-xl-base-1.0", XL_COMPONENTS,
    parts={
        VAE: "VAE", "conditioner.embedders.0.": "first text encoder",
        "conditioner.embedders.1.": "second text encoder",
    },
)  # fmt: skip
SD3_MEDIUM = CheckpointKind(
    "stable_diffusion_3", "stabilityai/stable-diffusion-3-medium-diffusers", SD3_COMPONENTS,
    parts={
        VAE: "VAE", "text_encoders.clip_l.": "first text encoder",
        "text_encoders.clip_g.": "second text encoder",
    },
)  # fmt: skip
SD35_MEDIUM = replace(SD3_MEDIUM, settings="stabilityai/stable-diffusion-3.5-medium")
SD35_LARGE = replace(SD3_MEDIUM, settings="stabilityai/stable-diffusion-3.5-large")

DENOISER_ALONE = CheckpointKind(
    "z_image",
    "Tongyi-MAI/Z-Image",
    ("scheduler", "text_encoder", "tokenizer", "vae", "transformer"),
    holds=("transformer",),
)
KREA2 = replace(DENOISER_ALONE, family="krea_2", settings="krea/Krea-2-Raw")
QWEN = replace(DENOISER_ALONE, family="qwen_image", settings="Qwen/Qwen-Image")
FLUX_1 = replace(
    DENOISER_ALONE,
    family="flux_1",
    settings="black-forest-labs/FLUX.1-dev",
    components=(*DENOISER_ALONE.components, "text_encoder_2", "tokenizer_2"),
)
KLEIN = replace(
    DENOISER_ALONE,
    family="flux_2_klein",
    settings=None,
    undecided="It is a FLUX.2 klein of a size that is not known.",
)
KLEIN_SIZES = {3072: "4B", 4096: "9B"}  # by the width of the denoiser
FLUX2_DEV_WIDTH = 6144

ALONE = {  # denoisers that are shared without the rest, by a key each
    "layers.0.adaLN_modulation.0.weight": DENOISER_ALONE,
    "txtfusion.projector.weight": KREA2,
    "transformer_blocks.0.img_mod.1.weight": QWEN,
    "single_stream_modulation.lin.weight": KLEIN,
    "double_blocks.0.img_mod.lin.weight": FLUX_1,
}
GUIDED = "guidance_in.in_layer.weight"  # FLUX.1 dev has it, and schnell has not
OTHER_GENERATION = {  # of those, what is not the model that is taken
    "txt_in.text_norm.weight": "Qwen-Image 2.1",
    "siglip_embedder.0.weight": "Z-Image Omni",
}
PREFIXES = (DENOISER, "diffusion_model.")
"""What may stand before the keys of a denoiser that is alone."""

FOREIGN = {  # what else is often at hand, by a pattern of its keys, the first that fits
    "lora": "a LoRA or the like, not a base model",
    r"control_model\.": "a ControlNet, not a base model",
    r"double_blocks\.": "one of FLUX's kin",
    r"conditioner\.embedders\.0\.model\.": "the refiner of Stable Diffusion XL, not its base",
    r"^(?:down_|transformer_)blocks\.": "one component in diffusers' layout; name the whole "
    "pipeline's folder",
    r"joint_blocks\.": "the denoiser of Stable Diffusion 3 alone; a whole checkpoint has the VAE "
    "and the text encoders too",
}


PREDICTION_KEYS = ("prediction_type", "predict_key")
ZERO_TERMINAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


class _NotRead:
    """In the place of an object beside a checkpoint's tensors that only its trainer needed."""

    def __init__(self, *_: object) -> None:
        """What it was made of is dropped."""


def _harmless() -> list[Any]:
    """All else but tensors and plain values that may be in a pickled checkpoint.

    Trainers' callbacks, options and paths, which become nothing here, and numpy's numbers and
    arrays.
    """
    import numpy as np

    # numpy's own ways from a type and bytes to a number, and to an array
    of_numpy = {
        "scalar": np.float64(0).__reduce__()[0],
        "_reconstruct": np.zeros(0).__reduce__()[0],
    }
    trainers = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")
    callbacks = ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
    return [
        *((_NotRead, f"{trainer}.callbacks.{name}") for trainer in trainers for name in callbacks),
        *((_NotRead, f"pathlib.{name}") for name in ("PosixPath", "WindowsPath")),
        (_NotRead, "argparse.Namespace"),
        *((OrderedDict, f"{trainer}.utilities.parsing.AttributeDict") for trainer in trainers),
        *((make, f"numpy.{core}.multiarray.{name}") for name, make in of_numpy.items()
          for core in ("core", "_core")),
        *(getattr(np.dtypes, name) for name in np.dtypes.__all__), np.ndarray, np.dtype,
        codecs.encode,
    ]  # fmt: skip


def kind_of_checkpoint(path: Path, allow_pickle: bool) -> CheckpointKind:
    """What the checkpoint at ``path`` is.

    Raises:
        BaseModelError: it cannot be read, is pickled and that is not allowed, is of a kind that is
            not taken, or lacks a part; the message says which, where that can be told.
    """
    keys, metadata = _keys(path, allow_pickle)

    def has(start: str) -> bool:
        return any(key.startswith(start) for key in keys)

    kind = None
    if has(f"{DENOISER}joint_blocks."):
        kind = SD3_MEDIUM
        if any(".x_block.attn2." in key for key in keys):
            kind = SD35_MEDIUM
        elif f"{DENOISER}joint_blocks.37.x_block.mlp.fc1.weight" in keys:
            kind = SD35_LARGE
        if T5 not in keys:
            kind = replace(kind, absent=("text_encoder_3", "tokenizer_3"))
    elif has("conditioner.embedders.1.") or (
        has(f"{DENOISER}label_emb.0.") and not has("conditioner.") and not has("cond_stage_")
    ):
        kind = XL
    elif has(f"{DENOISER}input_blocks.") and not has("conditioner."):
        kind = V2 if has("cond_stage_model.model.") else V1
    if kind is None:
        return _denoiser_alone(path, keys, allow_pickle)
    lacks = ["denoiser"] if not has(DENOISER) else []
    lacks += [what for start, what in kind.parts.items() if not has(start)]
    kind = replace(kind, lacks=tuple(lacks))
    _refuse_other_inputs(path, keys, allow_pickle)
    if kind.family == "stable_diffusion_3":
        return kind
    return replace(kind, scheduler=_said_of_scheduler(path, keys, metadata))


def _denoiser_alone(path: Path, keys: Collection[str], allow_pickle: bool) -> CheckpointKind:
    """Which denoiser is in a file without the rest; BaseModelError where it is none."""
    alone = {_bare(key): key for key in keys}
    found = next((what for key, what in OTHER_GENERATION.items() if key in alone), None)
    for key, kind in ALONE.items():
        if kind is FLUX_1 and key in alone and GUIDED not in alone:
            raise BaseModelError(
                f"base_model.name: {path} is told no guidance, as FLUX.1 schnell is not: it is "
                "distilled to draw in few steps, and learns badly. Take FLUX.1 dev."
            )
        if key in alone and found is None:
            return _sized_klein(path, alone, allow_pickle) if kind is KLEIN else kind
    for part, what in FOREIGN.items():
        if found is None and any(re.search(part, key) for key in keys):
            found = what
    raise BaseModelError(
        f"base_model.name: {path} is {found or 'of an unknown kind'}. Taken are whole checkpoints "
        "of Stable Diffusion 1, 2, XL (base) and 3, and denoisers of Z-Image, FLUX.1 dev, "
        "FLUX.2 klein, Qwen-Image and Krea 2, in their authors' layout."
    )


def _said_of_scheduler(
    path: Path, keys: Collection[str], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """What the checkpoint predicts, and how its schedule ends, where it says so itself.

    Empty tensors called ``v_pred`` and ``ztsnr`` are how checkpoints of Stable Diffusion XL say it;
    others say it in ModelSpec's metadata, as ``prediction_type`` or as ComfyUI calls it.

    Raises:
        BaseModelError: it was trained on another kind of schedule.
    """
    if any(key.startswith("edm_") for key in keys):
        raise BaseModelError(
            f"base_model.name: {path} was trained on EDM's noise levels, which are not taken."
        )
    # Of "epsilon" nothing follows: tools write it where they know nothing.
    said = {
        re.sub("[^a-z]", "", metadata.get(f"modelspec.{key}", "").lower())
        for key in PREDICTION_KEYS
    }
    predicts_v = "v_pred" in keys or not said.isdisjoint({"v", "vpred", "vprediction"})
    if "ztsnr" in keys and not predicts_v:
        raise BaseModelError(
            f"base_model.name: {path} is marked for a zero terminal SNR (ztsnr) and not as "
            "predicting v (v_pred), which do not go together."
        )
    settings: dict[str, Any] = {"prediction_type": "v_prediction"} if predicts_v else {}
    return settings | (ZERO_TERMINAL if "ztsnr" in keys else {})


INPUTS = f"{DENOISER}input_blocks.0.0.weight"
TASKS = {9: "inpainting", 8: "InstructPix2Pix", 5: "drawing by depth"}
"""What a UNet is for that is given more than noisy latents, by how many channels it is given."""


def _refuse_other_inputs(path: Path, keys: Collection[str], allow_pickle: bool) -> None:
    shape = _shape(path, INPUTS, allow_pickle) if INPUTS in keys else ()
    if len(shape) > 1 and (task := TASKS.get(shape[1])) is not None:
        raise BaseModelError(
            f"base_model.name: {path} is a model for {task}, which is given a picture beside the "
            "prompt: take the base that it was made from."
        )


def _shape(path: Path, key: str, allow_pickle: bool) -> Sequence[int]:
    """Of the tensor of this name, without what a tool put before it."""
    if not _is_safetensors(path):
        return tuple(read_tensors(path, allow_pickle)[key].shape)
    with safe_open(path, framework="np") as file:
        return tuple(file.get_slice(_wrapper(file.keys()) + key).get_shape())


def _bare(key: str) -> str:
    return next((key.removeprefix(start) for start in PREFIXES if key.startswith(start)), key)


def _sized_klein(path: Path, alone: Mapping[str, str], allow_pickle: bool) -> CheckpointKind:
    """Which FLUX.2 it is, by its width."""
    key = alone.get("img_in.weight")
    if key is None:
        return KLEIN
    width = _shape(path, key, allow_pickle)[0]
    if width == FLUX2_DEV_WIDTH:
        raise BaseModelError(
            f"base_model.name: {path} is FLUX.2 dev, which is distilled and not taken; FLUX.2 "
            "klein base is."
        )
    size = KLEIN_SIZES.get(width)
    return replace(KLEIN, settings=size and f"black-forest-labs/FLUX.2-klein-base-{size}")


def denoiser_tensors(path: Path, allow_pickle: bool) -> dict[str, Any]:
    """Those of a denoiser that is alone, without what may stand before its keys."""
    return {_bare(key): value for key, value in read_tensors(path, allow_pickle).items()}


def read_tensors(path: Path, allow_pickle: bool) -> dict[str, Any]:
    """The checkpoint's tensors by name, on the CPU; raises as ``kind_of_checkpoint``."""
    is_safetensors = _is_safetensors(path)
    if not is_safetensors and not allow_pickle:
        raise BaseModelError(
            f"base_model.name: {path} is pickled, not a .safetensors file. Convert it, or set "
            "base_model.allow_pickle to true: only tensors are then read from it."
        )
    import torch  # seconds; what a file is can be told without
    from safetensors.torch import load_file

    content: Any
    try:
        if is_safetensors:
            content = load_file(path)
        else:
            # Of a path, torch would go by the name.
            with torch.serialization.safe_globals(_harmless()), path.open("rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling raises has no common class
        if (unknown := UNKNOWN.search(str(error))) is not None:
            raise BaseModelError(
                f"base_model.name: {path} holds an object of {unknown[1]} beside its tensors, and "
                "reading it could run its code. Convert the file to .safetensors where it was made."
            ) from error
        raise _unreadable(path, error) from error
    while isinstance(content, dict):
        inner = next((content[n] for n in NESTED if isinstance(content.get(n), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict):
        raise BaseModelError(f"base_model.name: {path} holds no tensors by name.")
    wrapper = _wrapper(content)
    return {
        str(name).removeprefix(wrapper): value
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }


UNKNOWN = re.compile(r"GLOBAL ([\w.]+) (?:was not an allowed global|whose module)")


def _wrapper(keys: Iterable[str]) -> str:
    """What a tool put before every key, as "module." or "model."; empty where none did."""
    return next((found[1] for key in keys if (found := WRAPPED.match(str(key)))), "")


WRAPPED = re.compile(
    r"((?:\w+\.)*?)(?:"
    + "|".join((re.escape(DENOISER), re.escape(VAE), *(f"{re.escape(key)}$" for key in ALONE)))
    + ")"
)
LONGEST_HEADER = 100 * 2**20  # bytes, of a safetensors file


def _is_safetensors(path: Path) -> bool:
    """By how it starts, whatever its name; False where it is pickled.

    Raises:
        BaseModelError: it is neither, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise _unreadable(path, error) from error
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LONGEST_HEADER:
        return True
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return False
    other = in_its_place(start, "the checkpoint")
    if start.startswith(b"GGUF"):
        other = "is a GGUF file, made for drawing alone: take the .safetensors file"
    raise BaseModelError(f"base_model.name: {path} {other or 'is damaged, or not a checkpoint'}")


def _keys(path: Path, allow_pickle: bool) -> tuple[Collection[str], Mapping[str, str]]:
    """The names of its tensors, and the metadata of a safetensors file."""
    if not _is_safetensors(path):
        return read_tensors(path, allow_pickle).keys(), {}
    try:
        with safe_open(path, framework="np") as file:
            keys, metadata = set(file.keys()), dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    wrapper = _wrapper(keys)
    return {key.removeprefix(wrapper) for key in keys}, metadata


def _unreadable(path: Path, error: Exception) -> BaseModelError:
    reason = " ".join(str(error).split())[:300]
    return BaseModelError(f"base_model.name: {path} is damaged, or not a checkpoint: {reason}")
