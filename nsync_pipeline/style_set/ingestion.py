"""From a source's pictures to a set: each checked, none twice, what is left out accounted for."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from nsync_pipeline.errors import PictureError
from nsync_pipeline.files import named_in_line, named_list
from nsync_pipeline.pictures.near_duplicates import LookIndex
from nsync_pipeline.stage import Progress
from nsync_pipeline.style_set.config import StyleSetConfig
from nsync_pipeline.style_set.looking import Seen, looked_at
from nsync_pipeline.style_set.source_folder import Problem
from nsync_pipeline.workspace import Workspace

TRAIN, TEST = "train", "test"


def position(picture_id: str) -> float:
    """Where the picture lies in [0, 1): its id, the start of a SHA-256, as a fraction."""
    return int(picture_id, 16) / 16.0 ** len(picture_id)


def split_of(picture_ids: Collection[str], test_fraction: float) -> dict[str, str]:
    """``train`` or ``test`` for each id: test where ``position(id) < test_fraction``.

    Where the rule leaves one side empty, the picture nearest to the border goes there, and may move
    when pictures are added. ValueError where there are fewer than two ids.
    """
    if len(picture_ids) < 2:
        raise ValueError("a split needs at least two pictures")
    split = {i: TEST if position(i) < test_fraction else TRAIN for i in picture_ids}
    if TEST not in split.values():
        split[min(picture_ids, key=position)] = TEST
    if TRAIN not in split.values():
        split[max(picture_ids, key=position)] = TRAIN
    return split


@dataclass(frozen=True)
class Candidate:
    """A picture a source offers, not opened yet."""

    name: str  # in the source
    caption: str | None
    caption_source: str | None
    read: Callable[[], Image.Image]  # normalised RGB; raises PictureError with the reason
    split: str | None = None  # train or test, where the source says
    path: Path | None = None  # of the file it is read from; None where it is no file's


@dataclass(frozen=True)
class Offer:
    """What a source offers."""

    candidates: Iterator[Candidate]  # by name
    count: int  # of the candidates
    problems: tuple[Problem, ...] = ()  # files that are no candidates
    ignored: tuple[str, ...] = ()  # files that are neither pictures nor captions


@dataclass(frozen=True)
class IngestedPicture:
    """A picture of the set."""

    id: str  # the first 16 hex digits of pixel_sha256
    width: int
    height: int
    caption: str | None
    caption_source: str | None
    origin: str  # its name in the source
    group: int  # pictures that look the same have the same number
    split: str | None = None  # train or test, where the source said


@dataclass(frozen=True)
class SameAs:
    """A picture that is left out, as another is the same."""

    name: str
    kept: str  # the other's name

    def __str__(self) -> str:
        return f"{self.name} = {self.kept}"


@dataclass(frozen=True)
class Ingestion:
    """Every candidate is in exactly one of the first five."""

    pictures: tuple[IngestedPicture, ...]
    uncaptioned: tuple[str, ...]  # left out for want of a caption; empty where those are kept
    problems: tuple[Problem, ...]  # the source's too
    duplicates: tuple[SameAs, ...]  # the same pixels: "<left out> = <kept>"
    near_duplicates: tuple[SameAs, ...]  # the same to the eye; empty where those are kept
    ignored: tuple[str, ...]  # the source's files that are neither pictures nor captions


def ingest(
    offer: Offer,
    config: StyleSetConfig,
    store: Callable[[str, Candidate], None],
    progress: Progress,
    seen_before: Path | None = None,
) -> Ingestion:
    """Look at the candidates in their order; the first of several that are the same is kept.

    Where the kept one has no caption and a left-out copy has, the caption is taken over. ``store``
    is given the id of each picture that is kept, and its candidate. ``seen_before`` is where
    what was seen of files is kept, so that none is decoded twice.
    """
    kept = _GrowingSet(config.near_duplicates == "drop")
    problems = list(offer.problems)
    wanted: list[Candidate] = []
    uncaptioned: list[Candidate] = []
    for candidate in offer.candidates:
        leave_out = candidate.caption is None and config.uncaptioned == "skip"
        (uncaptioned if leave_out else wanted).append(candidate)
    looks = looked_at(wanted, config.min_side, config.max_megapixels, seen_before)
    for done, (candidate, seen) in enumerate(looks, start=len(uncaptioned) + 1):
        if isinstance(seen, PictureError):
            problems.append(Problem(candidate.name, str(seen)))
        elif (picture_id := kept.take(candidate, seen)) is not None:
            store(picture_id, candidate)
        progress("pictures", done, offer.count)
    return Ingestion(
        pictures=tuple(kept.pictures),
        uncaptioned=tuple(candidate.name for candidate in uncaptioned),
        problems=tuple(problems),
        duplicates=tuple(kept.duplicates),
        near_duplicates=tuple(kept.near_duplicates),
        ignored=offer.ignored,
    )


class _GrowingSet:
    """The pictures kept so far, and the copies left out."""

    def __init__(self, drop_near_duplicates: bool) -> None:
        self.drop_near_duplicates = drop_near_duplicates
        self.pictures: list[IngestedPicture] = []
        self.duplicates: list[SameAs] = []
        self.near_duplicates: list[SameAs] = []
        self._index_of: dict[str, int] = {}  # by the hash of all pixels
        self._members: dict[int, list[int]] = {}  # of each group
        self._looks = LookIndex()

    def take(self, candidate: Candidate, seen: Seen) -> str | None:
        """The id of the picture where it is kept; None where the set has it already."""
        pixels, look = seen.pixels, seen.look
        if pixels in self._index_of:
            self._leave_out(candidate, self._index_of[pixels], self.duplicates)
            return None
        same = self._looks.same(look)
        across = [i for i in same if self.pictures[i].split != candidate.split]
        if across or (same and self.drop_near_duplicates):
            self._leave_out(candidate, (across or same)[0], self.near_duplicates)
            return None
        group = self._joined_group(same)
        self._looks.add(look)
        self._index_of[pixels] = len(self.pictures)
        self._members.setdefault(group, []).append(len(self.pictures))
        picture = IngestedPicture(
            id=pixels[:16],
            width=seen.width,
            height=seen.height,
            caption=candidate.caption,
            caption_source=candidate.caption_source,
            origin=candidate.name,
            group=group,
            split=candidate.split,
        )
        self.pictures.append(picture)
        return picture.id

    def _joined_group(self, same: list[int]) -> int:
        """One group for a new picture and all it looks the same as."""
        groups = {self.pictures[index].group for index in same}
        joined = min(groups, default=len(self.pictures))
        for group in groups - {joined}:
            for index in (moved := self._members.pop(group)):
                self.pictures[index] = replace(self.pictures[index], group=joined)
            self._members[joined] += moved
        return joined

    def _leave_out(self, candidate: Candidate, kept: int, where: list[SameAs]) -> None:
        picture = self.pictures[kept]
        where.append(SameAs(candidate.name, picture.origin))
        if picture.caption is None:
            self.pictures[kept] = replace(
                picture, caption=candidate.caption, caption_source=candidate.caption_source
            )


def splits(ingestion: Ingestion, config: StyleSetConfig) -> dict[str, str]:
    """``train`` or ``test`` for each picture's id: what its source said, else by ``split_of``.

    Pictures that look the same go together, where the first of them by name goes: what is tested
    with has not been trained on.
    """
    said = {picture.id: picture.split for picture in ingestion.pictures if picture.split}
    if len(said) == len(ingestion.pictures):
        return said
    leaders: dict[int, str] = {}
    for picture in ingestion.pictures:
        leaders.setdefault(picture.group, picture.id)
    split = split_of(leaders.values(), config.test_fraction)
    return {picture.id: split[leaders[picture.group]] for picture in ingestion.pictures}


@dataclass(frozen=True)
class Asked:
    """Whose pictures these are, for messages."""

    workspace: Workspace
    style: str
    source: str  # as the person knows it


def refuse_bad_files(ingestion: Ingestion, config: StyleSetConfig, asked: Asked) -> None:
    """Raise a PictureError of all files that cannot be used, if ``on_bad_picture`` says so."""
    if ingestion.problems and config.on_bad_picture == "error":
        skip = "; or set style_set.on_bad_picture to `skip` to leave them out"
        listing = asked.workspace.listing(asked.style, "bad_files")
        raise PictureError(
            f"{asked.source}: {len(ingestion.problems)} of the files cannot be used:\n"
            f"{named_list(ingestion.problems, listing)}\n"
            f"Mend or take them out{skip if _enough(ingestion) else ''}."
        )


def _enough(ingestion: Ingestion) -> bool:
    return len({picture.group for picture in ingestion.pictures}) > 1


def refuse_too_few(ingestion: Ingestion, asked: Asked) -> None:
    """Raise a PictureError where no split into train and test can be made."""
    if _enough(ingestion):
        return
    lists = left_out(ingestion)
    besides = ", ".join(f"{len(files)} {name.replace('_', ' ')}" for name, files in lists.items())
    alike = " that differ from one another" if len(ingestion.pictures) > 1 else ""
    raise PictureError(
        f"{asked.source}: a style set needs at least two pictures{alike}, one to train on and one "
        f"to test with, and there {'is only one' if ingestion.pictures else 'are none'}"
        f"{f' (left out: {besides})' if besides else ''}. Add pictures."
    )


def left_out(ingestion: Ingestion) -> dict[str, tuple[object, ...]]:
    """What is not in the set, by why; only where there is any."""
    lists: dict[str, tuple[object, ...]] = {
        "bad_files": ingestion.problems,
        "duplicates": ingestion.duplicates,
        "near_duplicates": ingestion.near_duplicates,
        "without_caption": ingestion.uncaptioned,
        "ignored_files": ingestion.ignored,
    }
    return {name: files for name, files in lists.items() if files}


def figures(ingestion: Ingestion, asked: Asked) -> dict[str, int | float | str]:
    """What is in the set and what is not, in numbers, and the first names of what is not."""
    sides = [side for picture in ingestion.pictures for side in (picture.width, picture.height)]
    said: dict[str, int | float | str] = {
        "pictures": len(ingestion.pictures),
        "captioned": sum(picture.caption is not None for picture in ingestion.pictures),
        "shortest_side": min(sides, default=0),
        "longest_side": max(sides, default=0),
    }
    for name, files in left_out(ingestion).items():
        said[name] = len(files)
        said[f"{name}_are"] = named_in_line(files, asked.workspace.listing(asked.style, name))
    return said
