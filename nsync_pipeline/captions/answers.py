"""From what a vision-language model answers to a caption: one line that begins with the content.

"**Caption:** The image shows a boat on a lake.\\n\\nLet me know ..." becomes "a boat on a lake".
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from nsync_pipeline.captions.prompt_length import without_dangling_end
from nsync_pipeline.files import parse_json

THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
BULLET = re.compile(r"^\s*(?:[-*•>#]+|\d+[.)])\s+")
MARKS = re.compile(r"\*\*|__|`+|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
"""Of Markdown: bold, italics, code."""
QUOTES = "\"'“”‘’«»"

_SHOWN = r"(?:image|picture|photo(?:graph)?|scene|artwork|painting|illustration|drawing|print)"
OPENINGS = tuple(
    re.compile(rf"^{pattern}", re.IGNORECASE)
    for pattern in (
        r"(?:sure|certainly|of course|okay|ok)\b[^\w]*",
        # "Caption:", "Here is a brief description of the picture:", "Prompt:"
        r"(?:here(?:'s| is)|this is)\b[^:.!?]*:\s*",
        r"(?:[\w-]+\s+){0,3}(?:caption|prompt|description|answer)\s*:\s*",
        # "The image shows", "This picture depicts", "The scene is of"
        rf"(?:the|this|an?)\s+(?:[\w-]+\s+)?{_SHOWN}\s+"
        r"(?:(?:also\s+)?(?:shows?|depicts?|portrays?|features?|contains?|displays?|presents?|"
        r"captures?|illustrates?|represents?)|is\s+(?:of|an?\s+(?:depiction|image|picture)\s+of))\s+",
        # "In this image, there is", "In the picture we see"
        rf"in\s+(?:the|this)\s+(?:[\w-]+\s+)?{_SHOWN}\s*,?\s+"
        r"(?:there\s+(?:is|are)\s+|(?:we|you|one)(?:\s+can)?\s+sees?\s+)?",
        r"(?:there\s+(?:is|are)|(?:we|you|one)(?:\s+can)?\s+sees?)\s+",
        # "an image of a boat": the words for the medium are the style list's, these are not
        r"(?:the|this|an?)\s+(?:image|picture|photo(?:graph)?|depiction|scene)\s+of\s+",
    )
)
SENTENCE = re.compile(r"[.!?;](?=\s|$)")
CLAUSE = re.compile(r"[,:](?=\s)")


def caption_of(answer: str, max_words: int) -> str:
    """The caption in ``answer``: one line without quotes, Markdown and openings; it may be empty.

    The first paragraph with content in it counts. With more than ``max_words`` words it ends with
    the last sentence that fits, or clause, where one of these keeps half of the words or more; else
    after the last word that fits and that can end a caption.
    """
    for paragraph in re.split(r"\n\s*\n", THOUGHTS.sub("", answer)):
        text = _opened(_plain(paragraph))
        if re.search(r"\w", text):
            return _at_most(text, max_words)
    return ""


def _plain(paragraph: str) -> str:
    lines = [line.strip() for line in unicodedata.normalize("NFC", paragraph).splitlines()]
    items = [BULLET.sub("", line) for line in lines]
    listed = sum(item != line for item, line in zip(items, lines, strict=True)) > 1
    return MARKS.sub("", " ".join((", " if listed else " ").join(items).split()))


def _opened(text: str) -> str:
    """``text`` without what comes before its content, however often."""
    before = None
    while text != before:
        before = text
        text = text.strip().strip(QUOTES).strip()
        for opening in OPENINGS:
            text = opening.sub("", text)
    return text


def _at_most(text: str, max_words: int) -> str:
    words = text.split()
    if len(words) <= max_words:
        return _ended(text)
    start = " ".join(words[:max_words])
    for border in (SENTENCE, CLAUSE):
        ends = [match.start() for match in border.finditer(start)]
        if ends and len(start[: ends[-1]].split()) * 2 >= max_words:
            return _ended(start[: ends[-1]])
    return without_dangling_end(words[:max_words])


def _ended(text: str) -> str:
    return text.rstrip(f" .,;:{QUOTES}")


class AnswerStore:
    """A file of answers by key, a JSON object a line."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def answers(self) -> dict[str, str]:
        known: dict[str, str] = {}
        for line in self.file.read_bytes().split(b"\n") if self.file.is_file() else ():
            try:
                entry = parse_json(line)
                known[str(entry["key"])] = str(entry["answer"])
            except (ValueError, KeyError, TypeError):
                continue  # cut off in the middle of writing
        return known

    def put(self, batch: Mapping[str, str]) -> None:
        """Keep ``batch`` on the disk."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"key": key, "answer": answer}) for key, answer in batch.items()]
        with self.file.open("a", encoding="utf-8") as file:
            # A line break first: what a crash left without one must not swallow this line.
            file.write("\n" + "\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())


def answer_key(picture_sha256: str, asked: Mapping[str, str | int | bool]) -> str:
    """32 hex digits of the SHA-256 over a picture and all that decides the answer on it."""
    content = json.dumps({"picture": picture_sha256, **asked}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
