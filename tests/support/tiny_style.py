"""A tiny style set with captions and negatives, as the stages before training leave it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsync_pipeline.families.config import BaseModelConfig
from nsync_pipeline.families.family import Family
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.pictures.manifest import CAPTIONS, NEGATIVE_SET, STYLE_SET, write_manifest
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace
from tests.support.tiny_models import TINY_RESOLUTION

STYLE = "ink"
CAPTIONS_IN_TURN = ("a red house", "a blue boat on water", "a green tree on grass")


def tiny_family(base: Path) -> Family:
    """The tiny base, on the CPU."""
    return load_family(BaseModelConfig(name=str(base), device="cpu", resolution=TINY_RESOLUTION))


def tiny_params(base: Path, training: Mapping[str, Any], rule: str = "orthogonal_anchor") -> Params:
    """Params of style ``ink`` with one variant, ``nsync``."""
    return parse_params(
        {
            "base_model": {"name": str(base), "device": "cpu"},
            "styles": {STYLE: {"source": "folder"}},
            "training": dict(training),
            "variants": {"nsync": {"update_rule": rule}},
        }
    )


def write_tiny_style(
    workspace: Workspace, base_revision: str, train: int = 5, test: int = 2, negatives: int = 1
) -> None:
    """Pictures of noise; ``train`` and ``test`` of them, ``negatives`` a training picture."""
    pictures = [
        _picture(workspace.style_set(STYLE), f"{index:016x}", index)
        | {
            "caption": None,
            "caption_source": None,
            "split": "train" if index < train else "test",
            "origin": f"{index}.png",
        }
        for index in range(train + test)
    ]
    captions = [
        {
            "id": picture["id"],
            "caption": CAPTIONS_IN_TURN[index % 3],
            "raw_caption": CAPTIONS_IN_TURN[index % 3],
            "source": "txt",
            "removed_words": [],
        }
        for index, picture in enumerate(pictures)
    ]
    drawn = [
        _picture(workspace.negative_set(STYLE), f"{picture['id']}_{k}", 1000 + 10 * index + k)
        | {
            "positive_id": picture["id"],
            "k": k,
            "prompt": f"{CAPTIONS_IN_TURN[index % 3]} in the style of painting",
            "seed": k,
            "base_model": "tiny",
            "base_revision": base_revision,
            "sampler": "DDIMScheduler",
            "steps": 1,
            "guidance_scale": 1.0,
        }
        for index, picture in enumerate(pictures[:train])
        for k in range(negatives)
    ]
    write_manifest(workspace.style_set(STYLE) / MANIFEST_FILE, pictures, STYLE_SET)
    write_manifest(workspace.captions(STYLE) / MANIFEST_FILE, captions, CAPTIONS)
    write_manifest(workspace.negative_set(STYLE) / MANIFEST_FILE, drawn, NEGATIVE_SET)


def _picture(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """Store a picture of coarse noise, and return the columns that say what it is."""
    side = TINY_RESOLUTION
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = folder / "images" / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(file)
    return {
        "id": name,
        "file": f"images/{name}.png",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "width": side,
        "height": side,
    }
