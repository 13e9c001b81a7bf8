"""Base, plain LoRA and NSYNC side by side: the same prompts, the same seeds, one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nsync_pipeline.adaptation.trainables import remove_trained
from nsync_pipeline.determinism import deterministic_algorithms
from nsync_pipeline.drawing.picture_store import png_bytes
from nsync_pipeline.drawing.sampling import PictureRequest, draw_pictures
from nsync_pipeline.errors import MissingArtifactError, UserError
from nsync_pipeline.families.loading import load_family
from nsync_pipeline.files import write_whole
from nsync_pipeline.generate.model import drawing_model
from nsync_pipeline.generate.pictures import Manner
from nsync_pipeline.generate.prompts import AskedPrompt
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.sheets import GridRow, labelled_grid
from nsync_pipeline.stage import Progress, silent_progress
from nsync_pipeline.workspace import BASE, Workspace, trained_files

MOST_ROWS = 64  # more would not be looked at in one picture


@dataclass(frozen=True)
class ComparedModels:
    file: Path
    columns: tuple[str, ...]
    rows: int


def compare(
    workspace: Workspace,
    params: Params,
    style: str,
    prompts: Sequence[AskedPrompt],
    file: Path,
    *,
    variants: Sequence[str] = (),
    training_seed: int | None = None,
    manner: Manner | None = None,
    progress: Progress = silent_progress,
) -> ComparedModels:
    """Draw each prompt at each of its seeds by each of ``variants`` into one labelled picture.

    All start from the same noise. The base is asked for the generic style, a variant for its own.

    Args:
        prompts: what the pictures show, without the style.
        file: the picture, a PNG; nothing is overwritten.
        variants: the columns, ``base`` among them; empty: the base and all trained variants.
        training_seed: which training of each variant; None: the first of ``training_seeds``.
        manner: of one strength; None: as ``params.generation`` says.

    Raises:
        UserError: there is nothing to compare, too much, or the file is there already.
        ParamsError: there is no such style, variant or training seed.
        MissingArtifactError: a variant is not trained.
        BaseModelError: as ``generate``.
    """
    manner = manner or Manner.of(params.generation)
    (strength,) = manner.strengths
    seed = params.training_seed(training_seed)
    params.style(style)
    if not variants:
        trained = [n for n in params.variants if trained_files(workspace.model(style, n, seed))]
        if not trained:
            raise MissingArtifactError(f"no variant of {style!r} is trained yet: `dvc repro` first")
        variants = (BASE, *trained)
    columns = tuple(dict.fromkeys(variants))
    models = [drawing_model(workspace, params, style, name, training_seed=seed) for name in columns]
    rows = [(prompt.text, seed) for prompt in prompts for seed in prompt.seeds]
    if not 1 <= len(rows) <= MOST_ROWS:
        raise UserError(f"1 to {MOST_ROWS} rows (a prompt and a seed each) fit, not {len(rows)}")
    if file.exists():
        raise UserError(f"{file} is there already: choose another file, or move it away")

    family = load_family(manner.sampler.base(params.base_model))
    drawn: dict[tuple[str, int], Image.Image] = {}
    total = len(columns) * len(rows)
    base = params.base_model
    with deterministic_algorithms(base.deterministic, base.tf32):
        for model in models:
            remove_trained(family)
            model.put_on(family)
            requests = [
                PictureRequest(str(row), model.prompt(text), seed, manner.size)
                for row, (text, seed) in enumerate(rows)
            ]
            for batch in draw_pictures(family, requests, manner.sampler, manner.at(strength)):
                for picture in batch:
                    key = (model.name, int(picture.request.id))
                    drawn[key] = Image.fromarray(picture.pixels)
                progress("pictures", len(drawn), total)
    grid_rows = [
        GridRow(f"{text} · seed {seed}", [drawn[name, row] for name in columns])
        for row, (text, seed) in enumerate(rows)
    ]
    title = f"{style.replace('_', ' ')}, drawn by each from the same noise"
    grid = labelled_grid(title, columns, grid_rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, png_bytes(np.asarray(grid)))
    return ComparedModels(file, columns, len(rows))
