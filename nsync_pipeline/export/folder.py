"""Sharing a trained variant: one folder with its LoRA in every form, and a model card."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nsync_pipeline.adaptation.lora_file import OWN_METADATA, LoraHeader, write_lora_file
from nsync_pipeline.adaptation.safetensors_file import read_safetensors, write_safetensors
from nsync_pipeline.errors import UserError
from nsync_pipeline.export import kohya
from nsync_pipeline.export.card import CARD_FILE, CardFile, card_of, render
from nsync_pipeline.export.model import TrainedVariant, embeddings_name, read_trained_variant
from nsync_pipeline.families.config import public_name
from nsync_pipeline.files import file_sha256, whole_folder
from nsync_pipeline.params import Params
from nsync_pipeline.workspace import LORA_FILE, TrainingRun, Workspace

Form = Literal["diffusers", "kohya", "all"]

RECORD_FILE = "export.json"
"""What an export wrote, by digest: by it a folder is known as an earlier export."""

DORA_NOTE = (
    "It is a DoRA: LyCORIS reads its lengths as they are meant, ComfyUI divides them by the base "
    "weights' own lengths, so its pictures differ a little, and diffusers leaves them out of this "
    "form: use its own there."
)


@dataclass(frozen=True)
class Exported:
    folder: Path
    files: tuple[str, ...]  # relative to it
    notes: tuple[str, ...]  # what a person should know about them


def export_model(
    workspace: Workspace,
    params: Params,
    style: str,
    variant: str,
    form: Form,
    folder: Path,
    training_seed: int | None = None,
) -> Exported:
    """Write the trained ``variant`` of ``style`` to ``folder``, whole or not at all.

    Args:
        form: of the LoRA: diffusers', kohya's (ComfyUI, A1111), or both.
        folder: made where missing; an earlier export in it is replaced.
        training_seed: which training of the variant; None: the first of ``training_seeds``.

    Raises:
        MissingArtifactError: the variant is not trained yet, or by another version.
        UserError: the folder holds anything but an earlier export as it was written; or the LoRA
            has no such form.
    """
    seed = params.training_seed(training_seed)
    trained = read_trained_variant(workspace, params, style, variant, seed)
    _refuse_other_files(folder)
    with whole_folder(folder) as written:
        files, notes = _write_weights(trained, form, written)
        card = card_of(workspace, trained, written, files)
        (written / CARD_FILE).write_text(render(card), encoding="utf-8", newline="\n")
        record = {name: file_sha256(path) for name, path in _files_in(written)}
        (written / RECORD_FILE).write_text(
            json.dumps({"files": record}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
    return Exported(folder, (*record, RECORD_FILE), tuple(notes))


def _write_weights(
    trained: TrainedVariant, form: Form, folder: Path
) -> tuple[list[CardFile], list[str]]:
    files: list[CardFile] = []
    notes: list[str] = []
    model = trained.model
    if trained.lora is not None and (shape := model.lora) is not None:
        header, tensors = trained.lora
        if form in ("diffusers", "all"):
            shared = LoraHeader(header.adapters, _shared_origin(header.origin))
            write_lora_file(folder / LORA_FILE, tensors, shared)
            files.append(CardFile(LORA_FILE, "the LoRA, for diffusers"))
        if form in ("kohya", "all"):
            name = f"{model.style}_{model.variant}.safetensors"  # one for a folder with many
            if "transformer" in header.adapters:
                converted = kohya.scaled_tensors(header, tensors)
                readers = "the same, for ComfyUI (and diffusers)"
            else:
                converted = kohya.kohya_tensors(header, tensors, model.architecture)
                readers = "the same in kohya's form: ComfyUI, A1111, Forge, kohya's tools"
            metadata = {"format": "pt", **kohya.metadata(model, shape, converted)}
            write_safetensors(folder / name, converted, metadata)
            files.append(CardFile(name, readers))
            notes += [DORA_NOTE] if shape.dora else []
    if trained.embeddings is not None:
        name = embeddings_name(model)
        file = read_safetensors(trained.embeddings)
        origin = _shared_origin(json.loads(file.metadata[OWN_METADATA]))
        metadata = {**file.metadata, OWN_METADATA: json.dumps(origin, sort_keys=True)}
        write_safetensors(folder / name, file.tensors, metadata)
        word = f"`embedding:{Path(name).stem}` in the place of `{trained.word}`"
        files.append(CardFile(name, f"the vectors of `{trained.word}`; in ComfyUI, write {word}"))
    return files, notes


def _shared_origin(origin: Mapping[str, str]) -> dict[str, str]:
    """As it was trained, but for folders of this machine in the base's name."""
    return {**origin, "base_model": public_name(origin["base_model"])}


def _refuse_other_files(folder: Path) -> None:
    """Stop where anything would be lost that is not an earlier export as it was written."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder by --output")
    try:
        written = json.loads((folder / RECORD_FILE).read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        written = {}
    for name, path in _files_in(folder):
        of_export = name == RECORD_FILE and written
        if not of_export and written.get(name) != file_sha256(path):
            raise UserError(
                f"{path} is not as an export wrote it, and would be lost: choose another folder by "
                "--output, or move it away"
            )


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() or path.is_symlink():
            yield path.relative_to(folder).as_posix(), path


def default_folder(
    workspace: Workspace, style: str, variant: str, training_seed: int | None = None
) -> Path:
    """Where an export goes when nothing else is said; a training that was named has its own."""
    name = variant if training_seed is None else TrainingRun(variant, training_seed).name
    return workspace.root / "exports" / style / name
