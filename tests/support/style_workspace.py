"""A workspace as the stages before evaluation leave it, drawn by the embedded world in a second.

"lora" paints half of its pictures in the style and half as oil, "nsync" all in the style.
"""

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from nsync_pipeline.contrast.config import UpdateRule
from nsync_pipeline.params import Params, parse_params
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    NEGATIVE_SET,
    SAMPLES,
    STYLE_SET,
    write_manifest,
)
from nsync_pipeline.sketchbook.world import DrawnPicture, draw_style_set
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.history import COLUMNS
from nsync_pipeline.workspace import (
    BASE,
    BASE_BY_NAME,
    LORA_FILE,
    MANIFEST_FILE,
    POINTS_FOLDER,
    Workspace,
)

STYLE = "woodblock"
VARIANTS: dict[str, UpdateRule] = {"lora": "none", "nsync": "orthogonal"}


def style_params(source: str = "sketchbook:woodblock", **sections: object) -> Params:
    """Settings with one style and two variants."""
    style = {"source": source} | ({"pictures": 24} if source.startswith("sketchbook") else {})
    return parse_params(
        {
            "styles": {STYLE: style},
            "variants": {name: {"update_rule": rule} for name, rule in VARIANTS.items()},
            "evaluation": {"bootstrap_draws": 200},
            "report": {"rows": 3},
            **sections,
        }
    )


def build_style_workspace(
    root: Path,
    test: int = 8,
    train: int = 10,
    side: int = 64,
    steps: int = 30,
    training_seeds: Sequence[int] = (0,),
    points: Mapping[str, Mapping[str, int]] = {},
    by_name: bool = False,
) -> Workspace:
    """Write the artefacts of all stages up to generation; ``side`` is the real pictures'.

    Of each training seed the scenes are others. ``points`` are further ways of drawing: how many of
    each variant's pictures are in the style there, and show what was asked for; the others do not.
    ``by_name``: the base, asked for a name it knows, draws a seen style.
    """
    workspace = Workspace(root)
    drawn = list(draw_style_set(STYLE, test + train, seed=1))
    ids = [f"{index:016x}" for index in range(len(drawn))]
    captions = [picture.caption for picture in drawn]
    _write_real(workspace, drawn, ids, test, side)
    _write_negatives(workspace, ids[test:], captions[test:], test + train)
    base = _styles(["oil"] * test, seed=1)
    _write_samples(workspace, BASE, 0, ids[:test], captions[:test], base)
    if by_name:
        asked = _styles(["illustration"] * test, seed=1)
        within = (POINTS_FOLDER, BASE_BY_NAME)
        _write_samples(workspace, BASE, 0, ids[:test], captions[:test], asked, within)
    for seed in training_seeds:
        painted = {
            "lora": _styles((["oil", STYLE] * test)[:test], seed=3 + seed),
            "nsync": _styles([STYLE] * test, seed=3 + seed),
        }
        for variant, images in painted.items():
            _write_samples(workspace, variant, seed, ids[:test], captions[:test], images)
        for variant, rule in VARIANTS.items():
            _write_model(workspace, variant, seed, rule, steps)
        for point, of_variants in points.items():
            for variant, good in of_variants.items():
                shown = [picture.image for picture in drawn[:good]]
                shown += _styles(["oil"] * test, seed=5 + seed)[good:]
                within = (POINTS_FOLDER, point)
                _write_samples(workspace, variant, seed, ids[:test], captions[:test], shown, within)
    return workspace


def _styles(styles: list[str], seed: int) -> list[Image.Image]:
    """A picture a style; the i-th shows the i-th scene of its seed."""
    sets = {style: list(draw_style_set(style, len(styles), seed)) for style in set(styles)}
    return [sets[style][index].image for index, style in enumerate(styles)]


def _write_real(
    workspace: Workspace, drawn: list[DrawnPicture], ids: list[str], test: int, side: int
) -> None:
    folder = workspace.style_set(STYLE)
    rows, captions = [], []
    for index, (picture_id, picture) in enumerate(zip(ids, drawn, strict=True)):
        image = picture.image.resize((side, side), Image.Resampling.LANCZOS)
        rows.append(
            {
                "id": picture_id,
                **_stored(folder, picture_id, image),
                "caption": picture.caption,
                "caption_source": "sketchbook",
                "split": "test" if index < test else "train",
                "origin": f"{STYLE} {index}",
            }
        )
        captions.append(
            {
                "id": picture_id, "caption": picture.caption, "raw_caption": picture.caption,
                "source": "sketchbook", "removed_words": [],
            }
        )  # fmt: skip
    write_manifest(folder / MANIFEST_FILE, rows, STYLE_SET)
    write_manifest(workspace.captions(STYLE) / MANIFEST_FILE, captions, CAPTIONS)


def _write_negatives(workspace: Workspace, ids: list[str], captions: list[str], total: int) -> None:
    folder = workspace.negative_set(STYLE)
    images = _styles(["watercolor"] * total, seed=1)[total - len(ids) :]
    rows = [
        {
            "id": f"{picture_id}_0",
            **_stored(folder, f"{picture_id}_0", image),
            "positive_id": picture_id,
            "k": 0,
            "prompt": f"{caption} in the style of painting",
            "seed": 7,
            "base_model": "sketchbook",
            "base_revision": "sha256:0123456789abcdef",
            "sampler": "DPMSolverMultistepScheduler",
            "steps": 20,
            "guidance_scale": 5.0,
        }
        for picture_id, caption, image in zip(ids, captions, images, strict=True)
    ]
    write_manifest(folder / MANIFEST_FILE, rows, NEGATIVE_SET)


def _write_samples(
    workspace: Workspace,
    variant: str,
    training_seed: int,
    ids: list[str],
    captions: list[str],
    images: list[Image.Image],
    within: Sequence[str] = (),
) -> None:
    folder = workspace.samples(STYLE, variant, training_seed).joinpath(*within)
    rows = [
        {
            "id": f"{picture_id}_0",
            **_stored(folder, f"{picture_id}_0", image),
            "prompt_id": picture_id,
            "k": 0,
            "caption": caption,
            "prompt": f"{caption} in the style of {'painting' if variant == BASE else 'sks'}",
            "seed": 100 + index,
            "variant": variant,
        }
        for index, (picture_id, caption, image) in enumerate(
            zip(ids, captions, images, strict=True)
        )
    ]
    write_manifest(folder / MANIFEST_FILE, rows, SAMPLES)


def _write_model(
    workspace: Workspace, variant: str, training_seed: int, rule: UpdateRule, steps: int
) -> None:
    folder = workspace.model(STYLE, variant, training_seed)
    folder.mkdir(parents=True)
    (folder / LORA_FILE).write_bytes(f"weights of {variant} {training_seed}".encode())
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for step in range(1, steps + 1):
            noise = math.sin(step * 12.9898) * 0.05
            contrast = rule != "none"
            loss = 0.3 * math.exp(-step / 40) + 0.1 + noise
            writer.writerow(
                [
                    step, loss, loss / 2 if contrast else "", "",
                    0.5 + noise, 1.5 + noise if contrast else "", "",
                    -0.2 * math.exp(-step / 20) + noise if contrast else "", "",
                    0.02 + abs(noise) / 10 if contrast else 0.0, 0.48 + noise,
                    1e-3 * 0.5 * (1 + math.cos(math.pi * step / steps)),
                ]
            )  # fmt: skip
    summary = {
        "steps": steps,
        "pictures": 10,
        "trained_weights": 4096,
        "held_out_losses": {"0": 0.5, str(steps // 2): 0.3, str(steps): 0.25},
        "warnings": [],
        "looks": {},
        "best_look": None,
        "origin": {
            "base_model": "sketchbook",
            "base_revision": "sha256:0123456789abcdef",
            "data_sha256": "0" * 64,
            "generic_style": "painting",
            "placeholder": "sks",
            "seed": "0",
            "style": STYLE,
            "update_rule": rule,
            "variant": variant,
            "version": "0.1.0",
        },
        "settings": TrainingConfig(update_rule=rule, steps=steps).model_dump(mode="json"),
    }
    (folder / "training.json").write_text(json.dumps(summary, sort_keys=True))


def _stored(folder: Path, name: str, image: Image.Image) -> dict[str, object]:
    path = folder / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return {
        "file": f"images/{name}.png",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "width": image.width,
        "height": image.height,
    }
