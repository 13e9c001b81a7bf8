"""A workspace with a style set and captions on a tiny base: what the drawing stages start from."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nsync_pipeline.adaptation.config import LoraSettings
from nsync_pipeline.adaptation.lora import add_lora
from nsync_pipeline.adaptation.lora_file import save_lora
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.pictures.manifest import CAPTIONS, STYLE_SET, write_manifest
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace

STYLE = "ink"
CAPTIONS_OF = ("a red house", "a tree on grass", "a blue boat on water", "the sun in the sky")


def drawing_params(base: Path, **sections: object) -> Params:
    """Settings with one style, one variant, and few, short sampling steps."""
    sampler = {"steps": 3, "guidance_scale": 4.0, "batch_size": 2}
    return parse_params(
        {
            "base_model": {"name": str(base), "device": "cpu"},
            "styles": {STYLE: {"source": "folder"}},
            "variants": {"nsync": {"update_rule": "orthogonal"}},
            "negative_set": {"sampler": sampler},
            "generation": {"sampler": sampler},
            **sections,
        }
    )


def write_pictures(
    workspace: Workspace,
    train: Sequence[str],
    test: Sequence[str],
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Write the style set and captions of pictures with these ids; an id decides its picture.

    ``sizes`` are widths and heights by id, of those that are not 48 x 40.
    """
    folder = workspace.style_set(STYLE)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows, captions = [], []
    for split, ids in (("train", train), ("test", test)):
        for name in ids:
            digest = hashlib.sha256(name.encode()).digest()
            width, height = (sizes or {}).get(name, (48, 40))
            shape = (height, width, 3)
            pixels = np.random.default_rng(digest[0]).integers(0, 256, shape, np.uint8)
            file = folder / "images" / f"{name}.png"
            Image.fromarray(pixels).save(file)
            caption = CAPTIONS_OF[digest[1] % len(CAPTIONS_OF)]
            rows.append(
                {
                    "id": name, "file": f"images/{name}.png",
                    "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                    "width": width, "height": height, "caption": caption, "caption_source": "txt",
                    "split": split, "origin": f"{name}.jpg",
                }
            )  # fmt: skip
            captions.append(
                {
                    "id": name, "caption": caption, "raw_caption": caption, "source": "txt",
                    "removed_words": [],
                }
            )  # fmt: skip
    write_manifest(folder / MANIFEST_FILE, rows, STYLE_SET)
    write_manifest(workspace.captions(STYLE) / MANIFEST_FILE, captions, CAPTIONS)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def save_random_lora(path: Path, params: Params, dora: bool = False) -> None:
    family = load_family(params.base_model)
    stream = torch.Generator().manual_seed(1)
    settings = LoraSettings(rank=2, alpha=4.0, text_encoder=True, dora=dora)
    with torch.no_grad():
        for weight in add_lora(family, settings, stream).weights:
            weight.add_(torch.randn(weight.shape, generator=stream) * 0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_lora(family, path, {"base_revision": family.revision})
