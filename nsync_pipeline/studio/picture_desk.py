"""The pictures of a style as its set will take them: read once, in the background, and kept.

The reading is the stage's own (``style_set.ingestion``). What comes of it is kept with what it was
read from, so that a studio that is started anew shows it at once.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from pydantic import TypeAdapter

from nsync_pipeline.errors import PictureError, UserError
from nsync_pipeline.files import read_json, write_whole
from nsync_pipeline.given_files import may_be_read
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.pictures.decoding import decode_picture
from nsync_pipeline.stage import Progress
from nsync_pipeline.style_set.config import StyleSetConfig, StyleSource
from nsync_pipeline.style_set.ingestion import Asked, Candidate, Ingestion, ingest, splits
from nsync_pipeline.style_set.source_folder import read_source
from nsync_pipeline.style_set.sources import folder_offer, sketchbook_offer
from nsync_pipeline.workspace import SKETCHBOOK_PREFIX, Workspace

THUMBNAIL = 360  # pixels of the longer side; a smaller picture is kept as it is
VIEW = 1400
QUALITY = 88
ANY_SIDE, ANY_SIZE = 1, 1000.0  # of a picture that is only looked at: pixels, megapixels


class Standing(StrEnum):
    """What becomes of a picture."""

    TRAIN = "train"
    TEST = "test"
    EXCLUDED = "excluded"  # by the person
    LEFT_OUT = "left_out"  # a duplicate, or without a caption where that is not allowed
    UNUSABLE = "unusable"


@dataclass(frozen=True)
class PictureCard:
    """A file of the source."""

    name: str
    standing: Standing
    id: str = ""  # of one that is in the set
    width: int = 0
    height: int = 0
    caption: str | None = None  # as it came
    caption_source: str | None = None
    why: str = ""  # it is not in the set

    @property
    def in_set(self) -> bool:
        return self.standing in (Standing.TRAIN, Standing.TEST)


@dataclass(frozen=True)
class Pictures:
    """What is known of a style's pictures now."""

    cards: tuple[PictureCard, ...] = ()  # by name
    ignored: tuple[str, ...] = ()  # neither pictures nor captions
    problem: str = ""  # the source cannot be read at all
    reading: tuple[int, int] | None = None  # done, of how many; None: all is read

    @property
    def in_set(self) -> tuple[PictureCard, ...]:
        return tuple(card for card in self.cards if card.in_set)


class PictureDesk:
    """The pictures of all styles of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, Pictures]] = {}  # by style: of which source, and what
        self._reading: dict[str, tuple[str, list[int]]] = {}  # of which source; done and total

    def pictures(self, graph: Graph, style: str) -> Pictures:
        """What is known now; where the source has changed, it is read anew meanwhile."""
        source = _Source.of(graph, style)
        with self._lock:
            if style not in self._known:
                self._known[style] = self._kept(style)
            key, found = self._known[style]
            if key == source.key:
                return found
            running = self._reading.get(style)
            if running is None or running[0] != source.key:
                running = source.key, [0, 0]
                self._reading[style] = running
                threading.Thread(target=self._read, args=(source, running[1]), daemon=True).start()
            done, total = running[1]
        excluded = {n: PictureCard(n, Standing.EXCLUDED) for n in source.style.excluded}
        cards = tuple(excluded.get(card.name, card) for card in found.cards)
        return Pictures(cards, found.ignored, found.problem, (done, total))

    def thumbnail(self, style: str, card: PictureCard) -> Path | None:
        """A small copy of the picture; None where it cannot be read."""
        if card.id:
            kept = self._thumbnail(style, card.id)
            if kept.is_file():
                return kept
        return self._copy(style, card, THUMBNAIL)

    def view(self, style: str, card: PictureCard) -> Path | None:
        """A copy to look at closely."""
        return self._copy(style, card, VIEW) or self.thumbnail(style, card)

    def _copy(self, style: str, card: PictureCard, side: int) -> Path | None:
        folder = self._workspace.source(style)
        source = folder / card.name
        if not may_be_read(source, folder):  # or it is a drawn one, which has no file
            return None
        state = source.stat()
        said = f"{card.name}\0{state.st_mtime_ns}\0{state.st_size}"
        name = hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        place = self._folder(style) / f"copies-{side}" / f"{name}.jpg"
        if not place.is_file():
            try:
                image = decode_picture(source, ANY_SIDE, ANY_SIZE)
            except PictureError:
                return None
            _write_copy(place, image, side)
        return place

    def _read(self, source: "_Source", progress: list[int]) -> None:
        """Read ``source`` whole, in a thread of its own."""

        def tell(what: str, done: int, total: int) -> None:
            progress[:] = done, total

        try:
            found = source.read(self._workspace, partial(self._store, source.name), tell)
        except UserError as error:
            found = Pictures(problem=str(error))
        except Exception as error:  # a page that waits for ever would be worse
            found = Pictures(problem=f"{type(error).__name__}: {error}")
        with self._lock:
            newest = self._reading.get(source.name)
            if newest is not None and newest[0] == source.key:
                self._known[source.name] = source.key, found
                del self._reading[source.name]
                self._keep(source, found)

    def _store(self, style: str, picture_id: str, candidate: Candidate) -> None:
        """Of a drawn picture a copy is kept; of a file, one is made when it is looked at."""
        place = self._thumbnail(style, picture_id)
        if candidate.path is None and not place.is_file():
            _write_copy(place, candidate.read(), THUMBNAIL)

    def _thumbnail(self, style: str, picture_id: str) -> Path:
        return self._folder(style) / "thumbnails" / f"{picture_id}.jpg"

    def _folder(self, style: str) -> Path:
        return self._workspace.state / "studio" / "pictures" / style

    def _keep(self, source: "_Source", found: Pictures) -> None:
        content = {"key": source.key, **asdict(found)}
        write_whole(self._folder(source.name) / "pictures.json", json.dumps(content))

    def _kept(self, style: str) -> tuple[str, Pictures]:
        try:
            content = read_json(self._folder(style) / "pictures.json")
            return content.pop("key"), TypeAdapter(Pictures).validate_python(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "", Pictures()


@dataclass(frozen=True)
class _Source:
    """All that decides what is read."""

    name: str
    key: str
    style: StyleSource
    config: StyleSetConfig
    seed: int

    @staticmethod
    def of(graph: Graph, style: str) -> "_Source":
        of_style, config = graph.params.style(style), graph.params.style_set
        source = StyleSource(**{k: getattr(of_style, k) for k in StyleSource.model_fields})
        files = graph.people_s(f"sources/{style}")
        said = [source.model_dump(), config.model_dump(), graph.params.seed, files]
        key = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
        return _Source(style, key, source, config, graph.params.seed)

    def read(
        self, workspace: Workspace, store: Callable[[str, Candidate], None], tell: Progress
    ) -> Pictures:
        if self.style.source.startswith(SKETCHBOOK_PREFIX):
            offer = sketchbook_offer(self.style, self.seed)
        else:
            asked = Asked(workspace, self.name, f"sources/{self.name}")
            found = read_source(workspace.source(self.name))
            offer = folder_offer(found, self.config, asked, self.style.excluded)
        # Where the stage keeps it, too: no file is looked at twice.
        seen_before = workspace.scratch("style_set", self.name) / "seen.jsonl"
        ingestion = ingest(offer, self.config, store, tell, seen_before)
        return Pictures(tuple(self._cards(ingestion)), ingestion.ignored)

    def _cards(self, ingestion: Ingestion) -> list[PictureCard]:
        groups = {picture.group for picture in ingestion.pictures}
        # Of fewer than two that differ there is no split yet: all are shown as for training.
        split = splits(ingestion, self.config) if len(groups) > 1 else {}
        cards = [
            PictureCard(
                picture.origin, Standing(split.get(picture.id, "train")), picture.id,
                picture.width, picture.height, picture.caption, picture.caption_source,
            )
            for picture in ingestion.pictures
        ]  # fmt: skip
        left_out = [("the same pixels as", pair) for pair in ingestion.duplicates]
        left_out += [("looks the same as", pair) for pair in ingestion.near_duplicates]
        for why, pair in left_out:
            cards.append(PictureCard(pair.name, Standing.LEFT_OUT, why=f"{why} {pair.kept}"))
        no_caption = "no caption came with it (style_set.uncaptioned is skip)"
        cards += [PictureCard(n, Standing.LEFT_OUT, why=no_caption) for n in ingestion.uncaptioned]
        cards += [PictureCard(p.name, Standing.UNUSABLE, why=p.reason) for p in ingestion.problems]
        cards += [PictureCard(name, Standing.EXCLUDED) for name in self.style.excluded]
        return sorted(cards, key=lambda card: card.name)


def _write_copy(place: Path, image: Image.Image, side: int) -> None:
    """As a JPEG; of a small picture as a PNG of that name, which every browser shows as well."""
    place.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"format": "PNG"}
    if max(image.size) > side:
        image = ImageOps.contain(image, (side, side), Image.Resampling.LANCZOS)
        options = {"format": "JPEG", "quality": QUALITY}
    partial_file = place.with_name(f".{place.name}.{threading.get_ident()}.partial")
    image.save(partial_file, **options)
    partial_file.replace(place)
