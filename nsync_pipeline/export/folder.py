"""Sharing a trained variant: one folder with its LoRA in every form, and a model card."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from nsync_pipeline.adaptation.lora_file import OWN_METADATA, LoraHeader, load_lora, write_lora_file
from nsync_pipeline.adaptation.other_forms import (
    NoFormError,
    form_for_others,
    others_name,
    whole_changes,
)
from nsync_pipeline.adaptation.safetensors_file import read_safetensors, write_safetensors
from nsync_pipeline.errors import NotTextError, UserError
from nsync_pipeline.export import kohya
from nsync_pipeline.export.card import CARD_FILE, CardFile, card_of, render
from nsync_pipeline.export.kohya import LoraShape
from nsync_pipeline.export.markdown import code
from nsync_pipeline.export.model import TrainedVariant, embeddings_name, read_trained_variant
from nsync_pipeline.families.config import BaseModelConfig, public_name
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.files import file_sha256, parse_json, read_json, whole_folder
from nsync_pipeline.params import Params
from nsync_pipeline.text import one_line
from nsync_pipeline.workspace import LORA_FILE, TrainingRun, Workspace

Form = Literal["diffusers", "kohya", "all"]

RECORD_FILE = "export.json"
"""What an export wrote, by digest: by it a folder is known as an earlier export."""


@dataclass(frozen=True)
class Exported:
    folder: Path
    files: tuple[str, ...]  # relative to it
    readers: Mapping[str, str]  # of files with weights: what they are, and what reads them
    notes: tuple[str, ...]  # what a person should know about them


def export_model(
    workspace: Workspace,
    params: Params,
    style: str,
    variant: str,
    form: Form,
    folder: Path,
    training_seed: int | None = None,
    author: str | None = None,
    step: int | None = None,
) -> Exported:
    """Write the trained ``variant`` of ``style`` to ``folder``, whole or not at all.

    Args:
        form: of the LoRA: diffusers', kohya's (ComfyUI, A1111), or both.
        folder: made where missing; an earlier export in it is replaced.
        training_seed: which training of the variant; None: the first of ``training_seeds``.
        author: who shares it, for its metadata.
        step: of the weights that were saved on the way; None: the ones that a person chose, or the
            last.

    Raises:
        MissingArtifactError: the variant is not trained yet, or by another version.
        UserError: the folder holds anything but an earlier export as it was written; or the LoRA
            has no such form.
    """
    try:
        author = None if author is None else one_line(author) or None
    except NotTextError as error:
        raise UserError(f"--author {error}") from error
    seed = params.training_seed(training_seed)
    trained = read_trained_variant(workspace, params, style, variant, seed, author, step)
    folder = Path(os.path.normpath(folder.expanduser().absolute()))
    _refuse_other_files(workspace, folder)
    with whole_folder(folder) as written:
        files, notes = _write_weights(trained, form, written, params.base_model)
        card = card_of(workspace, trained, written, files)
        (written / CARD_FILE).write_text(render(card), encoding="utf-8", newline="\n")
        record = {name: file_sha256(path) for name, path in _files_in(written)}
        (written / RECORD_FILE).write_text(
            json.dumps({"files": record}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
    readers = {file.name: file.what for file in files}
    return Exported(folder, (*record, RECORD_FILE), readers, tuple(notes))


def _write_weights(
    trained: TrainedVariant, form: Form, folder: Path, base: BaseModelConfig
) -> tuple[list[CardFile], list[str]]:
    files: list[CardFile] = []
    notes: list[str] = []
    model = trained.model
    if trained.lora is not None and (shape := model.lora) is not None:
        header, tensors = trained.lora
        if form == "diffusers" and shape.kind == "loha":
            raise UserError(NO_DIFFUSERS_LOHA)
        if shape.kind == "loha":
            notes.append(NO_DIFFUSERS_LOHA)
        elif form in ("diffusers", "all"):
            shared = LoraHeader(header.adapters, _shared_origin(header.origin))
            write_lora_file(folder / LORA_FILE, tensors, shared)
            by_kind = DIFFUSERS_DORA if shape.dora else DIFFUSERS
            files.append(CardFile(LORA_FILE, DIFFUSERS_LOKR if shape.kind == "lokr" else by_kind))
        if form in ("kohya", "all"):
            try:
                files.append(_write_for_others(trained, shape, folder, base))
            except NoFormError as error:
                if not files:
                    raise
                notes.append(str(error))
    if trained.embeddings is not None:
        name = embeddings_name(model)
        file = read_safetensors(trained.embeddings)
        origin = _shared_origin(parse_json(file.metadata[OWN_METADATA]))
        sha256 = kohya.numbers_sha256(file.tensors)
        metadata = {
            **file.metadata, OWN_METADATA: json.dumps(origin, sort_keys=True),
            **kohya.specification(model, "textual-inversion", sha256),
        }  # fmt: skip
        write_safetensors(folder / name, file.tensors, metadata)
        word = f"{code(f'embedding:{Path(name).stem}')} in the place of {code(trained.word)}"
        what = (
            f"the vectors of {code(trained.word)}, for diffusers and ComfyUI; there, write {word}"
        )
        files.append(CardFile(name, what))
    return files, notes


def _write_for_others(
    trained: TrainedVariant, shape: LoraShape, folder: Path, base: BaseModelConfig
) -> CardFile:
    """The file that ComfyUI reads; raises ``NoFormError`` where there is none."""
    assert trained.lora is not None
    (header, tensors), model = trained.lora, trained.model
    third = "transformer" in header.adapters
    if shape.dora and third:
        raise NoFormError(NO_THIRD_DORA)
    name = others_name(model.style, model.variant)
    converted = form_for_others(header, tensors, model.architecture)
    if converted is None:
        converted = _whole_changes(trained, base)
    metadata = kohya.metadata(model, shape, converted, kohya_keys=not third)
    write_safetensors(folder / name, converted, {"format": "pt", **metadata})
    what = CHANGES if shape.dora else THIRD if third else KOHYA
    if shape.kind != "lora":
        what = (LYCORIS_THIRD if third else LYCORIS).format(shape.called)
    return CardFile(name, what)


DIFFUSERS = "the LoRA, for diffusers"
DIFFUSERS_DORA = f"{DIFFUSERS.replace('LoRA', 'DoRA')}; no other program reads its lengths rightly"
DIFFUSERS_LOKR = (
    "the LoKr, for diffusers: `load_lora_adapter` of the denoiser, and `load_lora_weights` of the "
    "pipelines of Z-Image and FLUX.2"
)
LYCORIS = "the {} in LyCORIS' form: ComfyUI, A1111, Forge and LyCORIS read it; diffusers does not"
LYCORIS_THIRD = "the {} in diffusers' names, as ComfyUI reads it; A1111 and kohya's tools do not"
NO_DIFFUSERS_LOHA = (
    "diffusers reads no LoHa: the file for ComfyUI (--format kohya) is the only one there is."
)
KOHYA = "the same in kohya's form: ComfyUI, A1111, Forge, kohya's tools and diffusers read it"
THIRD = "the same for ComfyUI and diffusers; A1111 and kohya's tools do not read it"
CHANGES = (
    "the same as whole changes of the weights, in float16: ComfyUI, A1111, Forge and LyCORIS add "
    "them; diffusers and kohya's own tools do not read it"
)
NO_THIRD_DORA = (
    "A DoRA on a transformer has no form that ComfyUI, A1111 or kohya's tools read rightly: "
    "export it as diffusers (--format diffusers)."
)


def _whole_changes(trained: TrainedVariant, base: BaseModelConfig) -> dict[str, Tensor]:
    """What a DoRA changes, for which its base is loaded; raises as ``load_family``."""
    family = load_family(base.model_copy(update={"device": "cpu", "dtype": "float32"}))
    if family.revision != trained.model.base_revision:
        raise UserError(
            f"the DoRA was trained on {trained.model.base_model} ({trained.model.base_revision}), "
            f"and base_model in params.yaml is {family.name} ({family.revision}): for other "
            "programs its changes are worked out with the base it was trained on"
        )
    load_lora(family, trained.place / LORA_FILE)
    return whole_changes(family, trained.model.architecture)


def _shared_origin(origin: Mapping[str, str]) -> dict[str, str]:
    """As it was trained, but for folders of this machine in the base's name."""
    return {**origin, "base_model": public_name(origin["base_model"])}


def _refuse_other_files(workspace: Workspace, folder: Path) -> None:
    """Stop where anything would be lost that is not an earlier export as it was written."""
    holds = [place for place in (Path.cwd(), workspace.root) if place.is_relative_to(folder)]
    if holds:
        raise UserError(
            f"{folder} holds {holds[0]}, and an export takes the place of a whole folder: name one "
            "of its own by --output"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder by --output")
    try:
        written = dict(read_json(folder / RECORD_FILE)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        written = {}
    # Without a record nothing in it is an export's: it may be a large folder.
    there = _files_in(folder) if written else ((path.name, path) for path in folder.iterdir())
    for name, path in there:
        of_export = name == RECORD_FILE and written
        if not of_export and (name not in written or written[name] != file_sha256(path)):
            raise UserError(
                f"{path} is not as an export wrote it, and would be lost: choose another folder by "
                "--output, or move it away"
            )


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() or path.is_symlink():
            yield path.relative_to(folder).as_posix(), path


def default_folder(
    workspace: Workspace,
    style: str,
    variant: str,
    training_seed: int | None = None,
    step: int | None = None,
) -> Path:
    """Where an export goes when nothing else is said; a training or step that was named has its
    own."""
    name = variant if training_seed is None else TrainingRun(variant, training_seed).name
    name += "" if step is None else f"-step{step}"
    return workspace.root / "exports" / style / name
