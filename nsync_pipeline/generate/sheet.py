"""The contact sheet of pictures on demand: planned before they are drawn, so that few are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nsync_pipeline.drawing.sampling import PictureRequest
from nsync_pipeline.generate.prompts import AskedPrompt
from nsync_pipeline.pictures.sheets import GridRow, labelled_grid

MOST_ROWS, MOST_COLUMNS = 32, 12  # a sheet shows the first ones


@dataclass(frozen=True)
class AskedPicture:
    file: Path
    row: int  # the prompt's number, from 0
    request: PictureRequest
    strength: float


@dataclass(frozen=True)
class SheetPlan:
    """Which picture goes where."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Path, ...]], ...]  # a label, and a picture a heading

    @property
    def files(self) -> frozenset[Path]:
        return frozenset(file for _, files in self.rows for file in files)

    def sheet(self, pictures: Mapping[Path, Image.Image]) -> Image.Image:
        """``pictures`` has all of ``files``."""
        rows = [GridRow(label, [pictures[file] for file in files]) for label, files in self.rows]
        return labelled_grid(self.title, self.headings, rows)


def sheet_plan(
    title: str,
    prompts: Sequence[AskedPrompt],
    asked: Sequence[AskedPicture],
    strengths: Sequence[float],
) -> SheetPlan:
    """Rows are prompts, columns seeds; in a sweep, columns are strengths and rows prompt and seed.

    Where prompts have seeds of their own, each picture is a row. ``asked`` are by prompt, then by
    seed, then by strength.
    """
    seeds, by_prompt = prompts[0].seeds, False
    if len(strengths) > 1:
        title = f"{title}: strength of the LoRA"
        headings = [f"{strength:g}" for strength in strengths]
    elif all(prompt.seeds == seeds for prompt in prompts):
        headings = [f"seed {seed}" for seed in seeds]
        by_prompt = True
    else:
        headings = ["one seed a row"]
    rows: dict[tuple[int, str], list[Path]] = {}
    for picture in asked:
        text = prompts[picture.row].text
        label = text if by_prompt else f"{text} · seed {picture.request.seed}"
        rows.setdefault((picture.row, label), []).append(picture.file)
    kept = [(label, tuple(files[:MOST_COLUMNS])) for (_, label), files in rows.items()]
    return SheetPlan(title, tuple(headings[:MOST_COLUMNS]), tuple(kept[:MOST_ROWS]))
