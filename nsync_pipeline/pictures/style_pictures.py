"""The pictures of one style as evaluation and report see them, read from their manifests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nsync_pipeline.errors import MissingArtifactError
from nsync_pipeline.pictures.manifest import (
    CAPTIONS,
    NEGATIVE_SET,
    SAMPLES,
    STYLE_SET,
    read_manifest,
)
from nsync_pipeline.workspace import (
    BASE,
    BASE_BY_NAME,
    MANIFEST_FILE,
    POINTS_FOLDER,
    TrainingRun,
    Workspace,
)


@dataclass(frozen=True)
class RealPicture:
    """A picture of the style set."""

    id: str
    path: Path
    caption: str  # content only
    width: int  # pixels
    height: int


@dataclass(frozen=True)
class Negative:
    """The frozen base's picture for a training picture's caption."""

    positive_id: str
    k: int
    path: Path


@dataclass(frozen=True)
class Sample:
    """A generated picture."""

    id: str
    prompt_id: str  # of the test picture whose caption it shows
    k: int
    path: Path
    caption: str
    seed: int
    size: tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class StylePictures:
    """All pictures of one style, each list by id."""

    test: tuple[RealPicture, ...]
    train: tuple[RealPicture, ...]
    negatives: tuple[Negative, ...]
    samples: dict[str, tuple[Sample, ...]]  # base first, then the trainings by name
    base_model: str
    base_revision: str
    negative_sampler: str  # in words
    at_points: Mapping[tuple[str, str], tuple[Sample, ...]] = field(default_factory=dict)
    """What a training drew in a further way, by both names; so the base, asked by name."""

    @property
    def side(self) -> int:
        """Pixels a side of the centre squares that are compared: the largest there is."""
        return max(min(sample.size) for sample in self.samples[BASE])


def read_style_pictures(
    workspace: Workspace,
    style: str,
    runs: Sequence[TrainingRun],
    points: Sequence[str] = (),
    by_name: bool = False,
) -> StylePictures:
    """Read the manifests of ``style``, and check that they belong together.

    ``points`` are the further ways of drawing whose pictures are read, too; ``by_name``: and what
    the base drew, asked for the style's name.

    Raises:
        MissingArtifactError: one is missing or empty, or the samples of a training are not of the
            same captions and seeds as the base's.
    """
    folder, captions = workspace.style_set(style), _captions(workspace, style)
    real: dict[str, list[RealPicture]] = {"train": [], "test": []}
    for row in read_manifest(folder / MANIFEST_FILE, STYLE_SET):
        if row["id"] not in captions:
            raise MissingArtifactError(
                f"{style}: picture {row['id']} ({row['origin']}) has no caption yet: run the "
                "captions stage again."
            )
        real[row["split"]].append(_real(row, folder, captions))
    for split, pictures in real.items():
        if not pictures:
            raise MissingArtifactError(
                f"{style}: there is no {split} picture; the style set needs both splits."
            )
    negative_folder = workspace.negative_set(style)
    negatives = read_manifest(negative_folder / MANIFEST_FILE, NEGATIVE_SET)
    if not negatives:
        raise MissingArtifactError(f"{negative_folder} is empty: run the negative_set stage again.")
    strangers = {row["positive_id"] for row in negatives} - {one.id for one in real["train"]}
    if strangers:
        raise MissingArtifactError(
            f"{style}: negatives were drawn for {len(strangers)} pictures that are no longer in "
            "the train split: run the negative_set stage again."
        )
    samples = {BASE: _samples(workspace.samples(style, BASE))}
    at_points: dict[tuple[str, str], tuple[Sample, ...]] = {}
    if by_name:
        folder = workspace.samples(style, BASE) / POINTS_FOLDER / BASE_BY_NAME
        at_points[BASE, BASE_BY_NAME] = _samples(folder)
    for run in runs:
        drawn_by = workspace.samples(style, run.variant, run.training_seed)
        samples[run.name] = _samples(drawn_by)
        for point in points:
            at_points[run.name, point] = _samples(drawn_by / POINTS_FOLDER / point)
    drawn = negatives[0]
    scheduler = drawn["sampler"].removesuffix("Scheduler")
    of_points = {f"{name}, {point}": rows for (name, point), rows in at_points.items()}
    _check_paired(style, samples | of_points, {picture.id for picture in real["test"]})
    return StylePictures(
        test=tuple(real["test"]),
        train=tuple(real["train"]),
        negatives=tuple(
            Negative(row["positive_id"], row["k"], negative_folder / row["file"])
            for row in negatives
        ),
        samples=samples,
        base_model=drawn["base_model"],
        base_revision=drawn["base_revision"],
        negative_sampler=(
            f"{scheduler}, {drawn['steps']} steps, guidance {drawn['guidance_scale']:g}"
        ),
        at_points=at_points,
    )


def _captions(workspace: Workspace, style: str) -> dict[str, str]:
    """By the picture's id."""
    rows = read_manifest(workspace.captions(style) / MANIFEST_FILE, CAPTIONS)
    return {row["id"]: row["caption"] for row in rows}


def _real(row: dict[str, Any], folder: Path, captions: dict[str, str]) -> RealPicture:
    caption = captions[row["id"]]
    return RealPicture(row["id"], folder / row["file"], caption, row["width"], row["height"])


def _samples(folder: Path) -> tuple[Sample, ...]:
    rows = read_manifest(folder / MANIFEST_FILE, SAMPLES)
    if not rows:
        raise MissingArtifactError(f"{folder} is empty: run the generation stage again.")
    return tuple(
        Sample(
            id=row["id"],
            prompt_id=row["prompt_id"],
            k=row["k"],
            path=folder / row["file"],
            caption=row["caption"],
            seed=row["seed"],
            size=(row["height"], row["width"]),
        )
        for row in rows
    )


def _check_paired(style: str, samples: dict[str, tuple[Sample, ...]], test_ids: set[str]) -> None:
    """Checkpoints are compared over the same captions, seeds and picture size, or not at all."""
    drawn = {
        name: [(s.id, s.prompt_id, s.caption, s.seed, s.size) for s in rows]
        for name, rows in samples.items()
    }
    for name, rows in drawn.items():
        if rows != drawn[BASE]:
            raise MissingArtifactError(
                f"{style}: the pictures of {name!r} are not of the same captions, seeds and size "
                f"as the base's: run the generation stage of {BASE!r} and {name!r} again."
            )
    strangers = {sample.prompt_id for sample in samples[BASE]} - test_ids
    if strangers:
        raise MissingArtifactError(
            f"{style}: pictures were drawn for {len(strangers)} captions that are no longer in the "
            "test split: run the generation stage again."
        )


def captioned_split(
    workspace: Workspace, style: str, split: Literal["train", "test"]
) -> list[RealPicture]:
    """The pictures of ``split``, by id.

    Raises:
        MissingArtifactError: a manifest is missing, the split is empty, or a caption is missing.
    """
    folder = workspace.style_set(style)
    rows = read_manifest(folder / MANIFEST_FILE, STYLE_SET)
    captions = _captions(workspace, style)
    chosen = sorted((row for row in rows if row["split"] == split), key=lambda row: row["id"])
    if not chosen:
        raise MissingArtifactError(
            f"{style}: there is no {split} picture in {folder}; add pictures, or change "
            "style_set.test_fraction."
        )
    uncaptioned = [row["origin"] for row in chosen if row["id"] not in captions]
    if uncaptioned:
        raise MissingArtifactError(
            f"{style}: {len(uncaptioned)} pictures have no caption yet, the first is "
            f"{uncaptioned[0]}: run the captions stage again."
        )
    return [_real(row, folder, captions) for row in chosen]
