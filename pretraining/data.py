"""The drawn training sets: drawn once, in chunks that outlive an interruption."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsync_pipeline.sketchbook.scene import Scene
from nsync_pipeline.sketchbook.world import (
    HELD_OUT_STYLES,
    SEEN_STYLES,
    draw_picture,
    picture_scene,
)
from pretraining.abstract_pictures import abstract_picture

JUDGED_STYLES = SEEN_STYLES + HELD_OUT_STYLES
WORLD_STREAM, JUDGED_STREAM = "pretraining", "judges"
CHUNK = 1_000  # pictures a file
ChunkDrawer = Callable[[int], Image.Image]


@dataclass(frozen=True)
class DrawnData:
    """Pictures of the world with what they show and how."""

    pictures: NDArray[np.uint8]  # (N, 128, 128, 3) RGB
    scenes: list[Scene]
    styles: list[str]


def world_data(work: Path, count: int, seed: int) -> DrawnData:
    """`count` pictures to train the base on: the seen styles take turns."""
    return _styled_data(work / f"world-{seed}", count, seed, WORLD_STREAM, SEEN_STYLES)


def judged_data(work: Path, count: int, seed: int) -> DrawnData:
    """`count` pictures to train the judges on: all styles take turns, in a stream of their own."""
    return _styled_data(work / f"judged-{seed}", count, seed, JUDGED_STREAM, JUDGED_STYLES)


def abstract_data(work: Path, count: int, seed: int) -> NDArray[np.uint8]:
    """(N, 128, 128, 3) abstract pictures."""
    return _drawn(work / f"abstract-{seed}", count, partial(abstract_picture, seed))


def _styled_data(
    folder: Path, count: int, seed: int, stream: str, styles: tuple[str, ...]
) -> DrawnData:
    return DrawnData(
        pictures=_drawn(folder, count, partial(_styled_picture, seed, stream, styles)),
        scenes=[picture_scene(seed, stream, index) for index in range(count)],
        styles=[styles[index % len(styles)] for index in range(count)],
    )


def _styled_picture(seed: int, stream: str, styles: tuple[str, ...], index: int) -> Image.Image:
    return draw_picture(styles[index % len(styles)], seed, stream, index).image


def _drawn(folder: Path, count: int, draw: ChunkDrawer) -> NDArray[np.uint8]:
    """The pictures, from the chunks in `folder`; those not there yet are drawn by all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    ranges = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    files = [folder / f"{start:06d}-{stop:06d}.npy" for start, stop in ranges]
    missing = [index for index, file in enumerate(files) if not file.exists()]
    if len(missing) == 1:
        _draw_chunk(draw, ranges[missing[0]], files[missing[0]])
    elif missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
            jobs = [pool.submit(_draw_chunk, draw, ranges[i], files[i]) for i in missing]
            for job in jobs:
                job.result()
    return np.concatenate([np.load(file) for file in files])


def _draw_chunk(draw: ChunkDrawer, bounds: tuple[int, int], file: Path) -> None:
    pictures = np.stack([np.asarray(draw(index)) for index in range(*bounds)])
    partial_file = file.with_suffix(f".{os.getpid()}.partial.npy")
    np.save(partial_file, pictures)
    partial_file.replace(file)
