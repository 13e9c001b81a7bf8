"""The pictures of the model card."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nsync_pipeline.sketchbook.canvas import PICTURE_SIZE
from nsync_pipeline.sketchbook.folders import WEIGHTS_FOLDER
from nsync_pipeline.sketchbook.world import (
    HELD_OUT_STYLES,
    SEEN_STYLES,
    draw_picture,
    draw_style_set,
)

ZOOM = 1
GAP = 6  # pixels between pictures
LABEL = 14  # pixels for a line of text
CARD_SEED = 5
Rows = list[tuple[str, list[NDArray[np.uint8]]]]  # each row's caption and (128, 128, 3) pictures


def picture_grid(rows: Rows, headings: list[str]) -> Image.Image:
    """Rows of pictures at twice their size, a heading over each column, captions below rows."""
    side = PICTURE_SIZE * ZOOM + GAP
    columns = max(len(pictures) for _, pictures in rows)
    height = LABEL + sum(side + (LABEL if caption else 0) for caption, _ in rows)
    grid = Image.new("RGB", (columns * side + GAP, height + GAP), "white")
    pen = ImageDraw.Draw(grid)
    for column, heading in enumerate(headings):
        pen.text((GAP + column * side, 1), heading, fill="black")
    top = LABEL
    for caption, pictures in rows:
        for column, picture in enumerate(pictures):
            image = Image.fromarray(picture)
            image = image.resize((PICTURE_SIZE * ZOOM,) * 2, Image.Resampling.NEAREST)
            grid.paste(image, (GAP + column * side, top + GAP))
        top += side
        if caption:
            pen.text((GAP, top + 1), caption, fill="black")
            top += LABEL
    return grid


def write_samples_picture(
    pictures: NDArray[np.uint8], prompts: list[str], style_words: list[str], path: Path
) -> None:
    """The first six rounds of the style words, each column one word."""
    width = len(style_words)
    rows: Rows = []
    for start in range(0, min(6 * width, len(pictures) - width + 1), width):
        rows.append(("", list(pictures[start : start + width])))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_grid(rows, style_words).save(path)


def write_world_picture(path: Path) -> None:
    """The same five scenes in every style, seen and held out."""
    styles = (*SEEN_STYLES, *HELD_OUT_STYLES)
    rows: Rows = []
    for index in range(5):
        drawn = [draw_picture(style, CARD_SEED, "card", index) for style in styles]
        rows.append((drawn[0].caption, [np.asarray(picture.image) for picture in drawn]))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_grid(rows, [style.replace("_", " ") for style in styles]).save(path)


def write_reconstructions_picture(
    real: dict[str, NDArray[np.uint8]], made: dict[str, NDArray[np.uint8]], path: Path
) -> None:
    """Seven pictures of each style, (7, 128, 128, 3), above their reconstructions."""
    rows: Rows = []
    for style in real:
        rows += [("", list(real[style])), (style.replace("_", " "), list(made[style]))]
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_grid(rows, []).save(path)


def main(
    folder: Annotated[Path, typer.Option(help="Folder for the PNG files.")] = Path("docs/images"),
    weights: Annotated[Path, typer.Option(help="Folder of the base's weights.")] = WEIGHTS_FOLDER,
) -> None:
    """Draw the world and the autoencoder's reconstructions for the model card."""
    from diffusers import AutoencoderTiny

    from pretraining.vae import reconstructed

    write_world_picture(folder / "sketchbook_world.png")
    vae = AutoencoderTiny.from_pretrained(weights / "pipeline" / "vae", local_files_only=True)
    real = {
        style: np.stack(
            [np.asarray(picture.image) for picture in draw_style_set(style, 7, CARD_SEED)]
        )
        for style in HELD_OUT_STYLES
    }
    made = {style: reconstructed(vae, pictures) for style, pictures in real.items()}
    write_reconstructions_picture(real, made, folder / "sketchbook_reconstructions.png")


if __name__ == "__main__":
    typer.run(main)
