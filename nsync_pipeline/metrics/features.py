"""Loading feature extractors: the embedded CLIP, or a CLIP, CSD or DINOv2 by folder or hub id.

Safetensors only, no remote code, a hub id pinned to a revision, and every weight in its place: an
extractor with a weight missing scores without a sign that its scores mean nothing.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, CLIPModel, CLIPVisionModel, Dinov2Model
from transformers.utils import logging as transformers_logging

from nsync_pipeline.errors import EvaluationError
from nsync_pipeline.metrics import csd
from nsync_pipeline.metrics.extractor import (
    ClipExtractor,
    Extractor,
    PooledVision,
    Preprocessing,
    read_json,
    read_preprocessing,
)
from nsync_pipeline.sketchbook.folders import CLIP_FOLDER

EMBEDDED = "sketchbook"
FILES = ("*.safetensors", "*.json", "*.txt")
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own, which CSD takes, too; its checkpoints come without a preprocessor config."""


def load_clip(
    name: str, revision: str | None, root: Path, device: str, where: str = "evaluation.extractor"
) -> ClipExtractor:
    """Load a CLIP: as ``load_extractor``, and an error for anything else."""
    extractor = load_extractor(name, revision, root, device, where)
    if not isinstance(extractor, ClipExtractor):
        raise EvaluationError(
            f"{where} {name!r} sees pictures only; a CLIP model (model_type `clip`) is needed "
            "here, to compare pictures with their captions."
        )
    return extractor


def load_extractor(
    name: str, revision: str | None, root: Path, device: str, where: str = "evaluation.extractor"
) -> Extractor:
    """Load `sketchbook`, a folder (relative to ``root``), or a hub id at a pinned revision.

    ``where`` is the setting that names it, for messages.

    Raises:
        EvaluationError: it cannot be found or loaded, has missing or extra weights, is none of the
            three kinds, or is a hub id without a revision.
    """
    folder = CLIP_FOLDER if name == EMBEDDED else root / name
    shown = name if name == EMBEDDED else Path(name).name
    if not folder.is_dir():
        folder, shown = download(name, revision, where, FILES), name
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise EvaluationError(
            f"{where} {name!r}: no .safetensors file in it; other formats can hide "
            "code and are not loaded. Convert it, or choose another revision."
        )
    try:
        return _loaded(folder, weights, shown, device, f"{where} {name!r}")
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise EvaluationError(
            f"{where} {name!r} cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from error


def _loaded(folder: Path, weights: Sequence[Path], shown: str, device: str, what: str) -> Extractor:
    sha256 = sha256_of(weights)
    config = folder / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    if kind == "clip":
        preprocessing = read_preprocessing(folder)
        model = _transformers_model(CLIPModel, folder, what).to(device)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return ClipExtractor(model, tokenizer, preprocessing, shown, sha256)
    if kind == "dinov2":
        preprocessing = read_preprocessing(folder)
        model = _transformers_model(Dinov2Model, folder, what).to(device)
        return Extractor(PooledVision(model, nn.Identity()), preprocessing, shown, sha256)
    if len(weights) == 1:
        # Saved from several processes, a checkpoint's keys begin with `module.`.
        loaded = load_file(weights[0])
        state = {key.removeprefix("module."): tensor.float() for key, tensor in loaded.items()}
        if csd.STYLE in state:
            return _csd(state, shown, sha256, device, what)
    raise EvaluationError(
        f"{what} is a {kind!r} model; taken are CLIP (model_type `clip`), DINOv2 (`dinov2`) and "
        f"CSD (one .safetensors file with {csd.STYLE})."
    )


def _csd(
    state: dict[str, torch.Tensor], shown: str, sha256: str, device: str, what: str
) -> Extractor:
    config = csd.vision_config(state)
    model = CLIPVisionModel(config)
    own = set(model.state_dict())
    prefix = "vision_model." if any(key.startswith("vision_model.") for key in own) else ""
    weights = csd.vision_weights(state, prefix)
    # Some versions keep the positions' numbers beside the weights.
    refuse_misplaced({k for k in own if not k.endswith("position_ids")} ^ set(weights), what)
    model.load_state_dict(weights, strict=False)
    side = int(config.image_size)
    preprocessing = Preprocessing(side, side, OPENAI_MEAN, OPENAI_DEVIATION, halves_to_even=True)
    model = model.eval().requires_grad_(False).to(device)
    projection = state[csd.STYLE].to(device)
    network = PooledVision(model, lambda pooled: pooled @ projection)
    return Extractor(network, preprocessing, shown, sha256)


def _transformers_model(kind: Any, folder: Path, what: str) -> Any:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    misplaced = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    refuse_misplaced({str(key) for key in misplaced}, what)
    return model.eval().requires_grad_(False)


def refuse_misplaced(keys: set[str], what: str) -> None:
    """Raise an ``EvaluationError`` if any weight of ``what`` has no place, or a place no weight."""
    if keys:
        raise EvaluationError(
            f"{what}: {len(keys)} weights are missing, extra or of "
            f"another shape, such as {min(keys)}: its scores would mean nothing."
        )


def download(name: str, revision: str | None, where: str, files: Sequence[str]) -> Path:
    """The folder with the ``files`` (patterns) of a hub id at a revision.

    Raises:
        EvaluationError: it is not pinned, or cannot be fetched.
    """
    if revision is None:
        raise EvaluationError(
            f"{where} {name!r} is no folder here. If it is a hub id, pin it: set {where}_revision "
            "to a commit, so that the figures stay comparable."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EvaluationError(
            f"{where} {name!r} at revision {revision!r} could not be fetched: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def sha256_of(files: Sequence[Path]) -> str:
    """The digest of all files, one after another."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
