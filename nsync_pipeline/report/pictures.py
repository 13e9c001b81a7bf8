"""The pictures on the report's page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsync_pipeline.metrics.picture_metrics import worst_first
from nsync_pipeline.pictures.embedded import Picture, embedded
from nsync_pipeline.pictures.pixels import open_picture, open_squares
from nsync_pipeline.pictures.sheets import preview
from nsync_pipeline.pictures.style_pictures import StylePictures
from nsync_pipeline.report.figures import digits_for, shown
from nsync_pipeline.workspace import BASE, BASE_BY_NAME, TrainingRun

RIBBON = 12
PAIRS = 8
COPIES = 8
PREVIEW_ROWS = 6
PREVIEW_SIDE = 96


@dataclass(frozen=True)
class Pair:
    left: Picture
    right: Picture
    text: str
    flagged: bool = False


@dataclass(frozen=True)
class ReportPictures:
    """Embeds the pictures of one style; ``side`` is how many pixels one is shown at.

    Side by side it shows what the trainings of one training seed drew.
    """

    pictures: StylePictures
    variants: Sequence[str]
    training_seed: int
    side: int

    def ribbon(self) -> list[Picture]:
        """The first training pictures, as they are."""
        return [
            embedded(open_picture(real.path), f"Training picture: {real.caption}", self.side)
            for real in self.pictures.train[:RIBBON]
        ]

    def rows(self, most: int) -> list[tuple[str, int, list[Picture]]]:
        """Of the first captions the seed, and the real picture, the base's, each variant's."""
        return [
            (
                caption,
                seed,
                [self._square(path, f"{name}: {caption}") for name, path in named.items()],
            )
            for caption, seed, named in self._side_by_side(most)
        ]

    def in_ways(self, variant: str, points: Sequence[str]) -> tuple[str, list[Picture]]:
        """The first caption, and what the variant drew of it: as usual, then at each of ``points``.

        The base's first sample says which is shown.
        """
        name = TrainingRun(variant, self.training_seed).name
        first = next(sample for sample in self.pictures.samples[BASE] if sample.k == 0)
        files = [self._sample_path(name, first.id)]
        for point in points:
            drawn = self.pictures.at_points[name, point]
            files.append(next(sample.path for sample in drawn if sample.id == first.id))
        return first.caption, [self._square(file, f"{variant}: {first.caption}") for file in files]

    def preview(self, style: str) -> bytes:
        """The same side by side, as one small JPEG."""
        rows = self._side_by_side(PREVIEW_ROWS)
        paths = [path for _, _, named in rows for path in named.values()]
        names = [name.lower() if name == "Real" else name for name in rows[0][2]]
        squares = list(open_squares(paths, self.pictures.side))
        return preview(" | ".join([style, *names]), squares, len(names), side=PREVIEW_SIDE)

    def pairs(self) -> list[Pair]:
        """The first training pictures, each with its first negative."""
        first = {n.positive_id: n.path for n in self.pictures.negatives if n.k == 0}
        chosen = [real for real in self.pictures.train if real.id in first][:PAIRS]
        return [
            Pair(
                left=embedded(open_picture(real.path), f"Real: {real.caption}", self.side),
                right=self._square(first[real.id], f"Negative: {real.caption}"),
                text=real.caption,
            )
            for real in chosen
        ]

    def copies(self, values: Sequence[Mapping[str, Any]]) -> list[Pair]:
        """The generated pictures nearest to a training picture, with that picture.

        ``values`` are rows of ``pictures.parquet``. The base's pictures are left out: it has never
        seen the training pictures.
        """
        trained = [row for row in values if row["variant"] != BASE]
        training = {real.id: real for real in self.pictures.train}
        several = len(self.pictures.samples) > 1 + len(self.variants)  # trainings of a variant
        worst = [trained[row] for row in worst_first([row["distance"] for row in trained], COPIES)]
        digits = digits_for(row["distance"] for row in worst)
        pairs = []
        for row in worst:
            run = TrainingRun(row["variant"], row["training_seed"])
            name = run.name if several else run.variant
            neighbour = training[row["nearest_id"]]
            flag = "; counts as a near-copy" if row["copied"] else ""
            pairs.append(
                Pair(
                    self._square(self._sample_path(run.name, row["id"]), f"Drawn by {name}"),
                    self._square(neighbour.path, f"Training picture: {neighbour.caption}"),
                    f"{name}, distance {shown(row['distance'], digits)}{flag}",
                    row["copied"],
                )
            )
        return pairs

    def _side_by_side(self, most: int) -> list[tuple[str, int, dict[str, Path]]]:
        real = {picture.id: picture.path for picture in self.pictures.test}
        drawn = {name: TrainingRun(name, self.training_seed).name for name in self.variants}
        first = [sample for sample in self.pictures.samples[BASE] if sample.k == 0][:most]
        asked = self.pictures.at_points.get((BASE, BASE_BY_NAME), ())
        by_name = {sample.id: sample.path for sample in asked}
        rows = []
        for sample in first:
            files = {"Real": real[sample.prompt_id], BASE: sample.path}
            if by_name:
                files[BASE_BY_NAME] = by_name[sample.id]
            files |= {name: self._sample_path(of, sample.id) for name, of in drawn.items()}
            rows.append((sample.caption, sample.seed, files))
        return rows

    def _sample_path(self, name: str, sample_id: str) -> Path:
        return next(s.path for s in self.pictures.samples[name] if s.id == sample_id)

    def _square(self, path: Path, alt: str) -> Picture:
        (square,) = open_squares([path], self.pictures.side)
        return embedded(square, alt, self.side)
