"""The captions of a style's pictures on the desk: what came, what was written, what will be.

What a person writes goes into the workspace's file (``captions.by_hand``) under a lock, and only
where it still says what the person saw: two pages, or a page and an editor, lose nothing of each
other.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from filelock import FileLock

from nsync_pipeline.captions.answers import caption_of
from nsync_pipeline.captions.by_hand import HandCaption, caption_line, read_by_hand, write_by_hand
from nsync_pipeline.captions.prompt_length import DANGLING, fit
from nsync_pipeline.captions.style_words import scrub
from nsync_pipeline.errors import MissingArtifactError, UserError
from nsync_pipeline.params import Params
from nsync_pipeline.pictures.manifest import BY_MODEL, CAPTIONS, read_manifest
from nsync_pipeline.studio.picture_desk import PictureCard, Standing
from nsync_pipeline.text import one_line, without_controls
from nsync_pipeline.workspace import MANIFEST_FILE, Workspace

PATIENCE = 10.0  # seconds that another may write
LONGEST = 4000  # characters of a caption


class ConflictError(UserError):
    """What was to be changed is no longer what the person saw."""

    def __init__(self, current: str) -> None:
        super().__init__("This caption was changed elsewhere meanwhile.")
        self.current = current


@dataclass(frozen=True)
class CaptionCard:
    """A picture and its caption."""

    id: str
    name: str
    split: str
    width: int
    height: int
    came: str  # with the picture; empty where nothing did
    came_from: str  # txt, metadata.jsonl, metadata.csv, sketchbook
    written: str  # by hand; empty where nothing was
    suggested: str  # by a model; empty where it was not asked

    @property
    def raw(self) -> str:
        """What is said of the picture before words of style are taken out."""
        return self.written or self.came


@dataclass(frozen=True)
class Change:
    """One caption, as it was seen and as it is to be."""

    id: str
    was: str
    caption: str


def caption_cards(
    workspace: Workspace, params: Params, style: str, pictures: Iterable[PictureCard]
) -> list[CaptionCard]:
    """Of each picture of the set, by name; raises CaptionError as ``read_by_hand``."""
    written = read_by_hand(workspace.captions_by_hand(style))
    suggested = _suggestions(workspace, params, style)
    return [
        CaptionCard(
            id=card.id,
            name=card.name,
            split="held out" if card.standing is Standing.TEST else "train",
            width=card.width,
            height=card.height,
            came=card.caption or "",
            came_from=card.caption_source or "",
            written=written[card.id].caption if card.id in written else "",
            suggested=suggested.get(card.id, ""),
        )
        for card in pictures
        if card.in_set
    ]


def _suggestions(workspace: Workspace, params: Params, style: str) -> dict[str, str]:
    """What a model said of pictures, by id: the captions stage has asked it."""
    words = params.captioning.model.max_words if params.captioning.model else LONGEST
    of_tags = params.captioning.tagger is not None
    try:
        rows = read_manifest(workspace.captions(style) / MANIFEST_FILE, CAPTIONS)
    except MissingArtifactError:
        return {}
    return {
        row["id"]: row["raw_caption"] if of_tags else caption_of(row["raw_caption"], words)
        for row in rows
        if row["source"] == BY_MODEL
    }


def save(
    workspace: Workspace, style: str, cards: Sequence[CaptionCard], changes: Sequence[Change]
) -> None:
    """Write ``changes`` into the workspace's file, all or none.

    A caption that says what came with the picture, or nothing, is no longer one by hand.

    Raises:
        ConflictError: one of them is no longer what the person saw.
        UserError: there is no such picture, or a caption is too long.
    """
    path = workspace.captions_by_hand(style)
    by_id = {card.id: card for card in cards}
    lock = workspace.lock(f"captions-{style}")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=PATIENCE):
        written = read_by_hand(path)
        for change in changes:
            card = by_id.get(change.id)
            if card is None:
                raise UserError("This picture is not in the set (any more): load the page again.")
            current = written[card.id].caption if card.id in written else card.came
            if caption_line(change.was) != caption_line(current):
                raise ConflictError(current)
            caption = caption_line(change.caption)
            if len(caption) > LONGEST:
                raise UserError(f"A caption has at most {LONGEST} characters.")
            written.pop(card.id, None)
            if caption and caption != caption_line(card.came):
                written[card.id] = HandCaption(card.id, card.name, caption)
        write_by_hand(path, written)


def replaced(
    cards: Sequence[CaptionCard], find: str, replacement: str, whole_words: bool
) -> list[Change]:
    """``find`` by ``replacement`` in every caption, whatever its case."""
    if not find.strip():
        raise UserError("Say what to find.")
    start, end = (r"(?<!\w)", r"(?!\w)") if whole_words else ("", "")
    pattern = re.compile(start + re.escape(find) + end, re.IGNORECASE)
    return _changes(cards, lambda text: pattern.sub(lambda _: replacement, text))


def without_tag(cards: Sequence[CaptionCard], tag: str) -> list[Change]:
    """Every caption without the part between commas that is ``tag``."""

    def without(text: str) -> str:
        return ", ".join(part for part in _parts(text) if part.lower() != tag.lower())

    return _changes([c for c in cards if tag.lower() in map(str.lower, _parts(c.raw))], without)


def with_tag(cards: Sequence[CaptionCard], tag: str) -> list[Change]:
    """Every caption with ``tag`` at its end, where it is not there yet."""
    if not (tag := caption_line(tag)):
        raise UserError("Say what to add.")
    lacking = [c for c in cards if c.raw and tag.lower() not in map(str.lower, _parts(c.raw))]
    return _changes(lacking, lambda text: f"{text}, {tag}")


def _changes(cards: Iterable[CaptionCard], change: Callable[[str], str]) -> list[Change]:
    made = [Change(card.id, card.raw, caption_line(change(card.raw))) for card in cards if card.raw]
    # A caption of which nothing is left would come back as it came.
    return [one for one in made if one.caption and one.caption != one.was]


TAG_WORDS = 3  # a part between commas with more words is a sentence's
CHIPS = 40
PLAIN = DANGLING | {"is", "are", "there", "that", "this", "which", "while", "some", "two", "it"}


def chips(cards: Iterable[CaptionCard]) -> list[tuple[str, int, bool]]:
    """What captions have in common: a tag (a short part between commas) or a word, in how many of
    them it is, and whether it is a tag; the most frequent first."""
    tags: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for card in cards:
        parts = [part.lower() for part in _parts(card.raw)]
        short = {part for part in parts if len(part.split()) <= TAG_WORDS} if len(parts) > 1 else ()
        tags.update(short)
        # Not those of a tag: it stands for them.
        said = " ".join(part for part in parts if part not in short)
        words.update({w for w in re.findall(r"[\w'-]+", said) if len(w) > 1 and w not in PLAIN})
    found = [(tag, count, True) for tag, count in tags.items() if count > 1]
    found += [(w, count, False) for w, count in words.items() if count > 1 and w not in tags]
    return sorted(found, key=lambda chip: (-chip[1], chip[0]))[:CHIPS]


def _parts(text: str) -> list[str]:
    return [part for part in (part.strip(" .") for part in text.split(",")) if part]


@dataclass(frozen=True)
class Piece:
    """Some words of a caption, and what becomes of them."""

    text: str
    fate: str  # kept, style (a word of style, or beside one), cut (too long for the model)


@dataclass(frozen=True)
class Outlook:
    """What a caption will be."""

    final: str
    pieces: tuple[Piece, ...]  # of the caption as it is written

    @property
    def nothing_left(self) -> bool:
        return bool(self.pieces) and not self.final


TokenCount = Callable[[str], int]


def outlook(
    text: str,
    style_words: Sequence[str],
    names: Sequence[str],
    tokens: TokenCount | None,
    most: int,
) -> Outlook:
    """What the captions stage will make of ``text``.

    Args:
        names: what the style is called by, as ``scrub`` takes them.
        tokens: of a caption in the longer of its two prompts; None where the model's tokenizer is
            not at hand: then nothing is said of its length.
        most: that the model takes.
    """
    raw = one_line(without_controls(text))
    scrubbed = scrub(raw, style_words, names).caption
    fitted = fit(scrubbed, tokens, most).caption if tokens is not None else scrubbed
    return Outlook(fitted, tuple(_pieces(raw, scrubbed, fitted)))


def _pieces(raw: str, scrubbed: str, fitted: str) -> Iterator[Piece]:
    before = raw.split()
    kept = len(fitted.split())
    matcher = difflib.SequenceMatcher(
        None, [*map(_bare, before)], [*map(_bare, scrubbed.split())], autojunk=False
    )
    for kind, start, end, in_after, _ in matcher.get_opcodes():
        border = start
        if kind == "equal":
            border = min(max(kept - in_after, 0), end - start) + start
        fate = "cut" if kind == "equal" else "style"
        for words, of in ((before[start:border], "kept"), (before[border:end], fate)):
            if words:
                yield Piece(" ".join(words), of)


def _bare(word: str) -> str:
    """What is the same of a word where a comma or the article beside it has changed."""
    bare = word.strip(".,;:").lower() or word
    return "a" if bare == "an" else bare
