"""What a blind page asks: which pairs, in which order, and which side is whose.

All of it is drawn from named streams over the pictures' digests. So nothing but the pictures is
needed to read choices later, and choices about pictures that are no longer there are known for
what they are.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nsync_pipeline.files import file_sha256
from nsync_pipeline.pictures.style_pictures import Sample, StylePictures
from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.workspace import BASE, TrainingRun

ID_DIGITS = 16


@dataclass(frozen=True)
class Question:
    """One pair of a page."""

    id: str
    of_a: Sample
    of_b: Sample
    a_is_left: bool


@dataclass(frozen=True)
class Questions:
    """A page, to whom it was drawn for."""

    a: str
    b: str
    page_id: str
    asked: tuple[Question, ...]


def picture_digests(pictures: StylePictures) -> dict[Path, str]:
    """The digest of every drawn picture, by its path."""
    return {
        sample.path: file_sha256(sample.path)
        for samples in pictures.samples.values()
        for sample in samples
    }


def draw_questions(
    pictures: StylePictures,
    digests: Mapping[Path, str],
    style: str,
    a: str,
    b: str,
    most: int,
    training_seed: int,
) -> Questions:
    """At most ``most`` pairs of a's and b's pictures of one prompt and seed, in random order.

    The pictures of a variant are those of its training with ``training_seed``.
    """
    of = {name: pictures.samples[_sampled(name, training_seed)] for name in (a, b)}
    pairs = list(zip(of[a], of[b], strict=True))
    told = [[digests[sample.path] for sample in pair] for pair in pairs]
    content = json.dumps([style, sorted(told), most]).encode()
    page_id = hashlib.sha256(content).hexdigest()[:ID_DIGITS]
    seed = int(page_id, 16) >> 1
    order = numpy_stream(seed, "blind order").permutation(len(pairs))[:most]
    asked = []
    for place in order.tolist():
        of_a, of_b = pairs[place]
        name = _question_id(page_id, told[place], of_a.id)
        side = numpy_stream(seed, "blind side", name).integers(2)
        asked.append(Question(name, of_a, of_b, a_is_left=bool(side)))
    return Questions(a, b, page_id, tuple(asked))


def _question_id(page_id: str, digests: list[str], sample_id: str) -> str:
    """The same whichever of the two is named first."""
    told = f"{page_id} {min(digests)} {max(digests)} {sample_id}"
    return hashlib.sha256(told.encode()).hexdigest()[:ID_DIGITS]


def _sampled(name: str, training_seed: int) -> str:
    """What the pictures of a variant's training, or of the base, are called."""
    return name if name == BASE else TrainingRun(name, training_seed).name
