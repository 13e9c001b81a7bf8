"""What a blind page asks: which pairs, in which order, and which side is whose.

All of it is drawn from named streams over the pictures' digests: neither the order in which two
variants are named nor what they are called decides anything. So nothing but the pictures is needed
to read choices later.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from nsync_pipeline.pictures.layout import picture_sha256
from nsync_pipeline.pictures.style_pictures import Sample, StylePictures
from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.workspace import BASE, TrainingRun


@dataclass(frozen=True)
class Question:
    id: str
    of_a: Sample
    of_b: Sample
    a_is_left: bool


@dataclass(frozen=True)
class Questions:
    """A page, and which two it was drawn for."""

    a: str
    b: str
    page_id: str
    pair_id: str  # of the two names and the training seed, which cannot be read from it
    asked: tuple[Question, ...]


@dataclass(frozen=True)
class _Pair:
    of_a: Sample
    of_b: Sample
    a_is_first: bool
    digests: tuple[str, str]  # of the first and the second


def picture_digests(pictures: StylePictures) -> dict[Path, str]:
    """The digest of every drawn picture, by its path."""
    return {
        sample.path: picture_sha256(sample.path)
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
    first: str | None = None,
) -> Questions:
    """At most ``most`` pairs of a's and b's pictures of one prompt and seed, in random order.

    The pictures of a variant are those of its training with ``training_seed``. ``first`` is for
    pages of ``nsync-choices-2``, where the picture of the one named first was the first of each
    pair; now it is the one with the smaller digest.
    """
    pairs = _pairs(pictures, digests, a, b, training_seed, first)
    page_id = _page_id(style, pairs, most)
    seed = int(page_id, 16) >> 1
    order = numpy_stream(seed, "blind order").permutation(len(pairs))[:most]
    asked = []
    for pair in (pairs[place] for place in order.tolist()):
        name = _short(f"{page_id} {min(pair.digests)} {max(pair.digests)} {pair.of_a.id}")
        first_is_left = bool(numpy_stream(seed, "blind side", name).integers(2))
        a_is_left = first_is_left == pair.a_is_first
        asked.append(Question(name, pair.of_a, pair.of_b, a_is_left))
    return Questions(a, b, page_id, pair_id(page_id, a, b, training_seed), tuple(asked))


@dataclass(frozen=True)
class DrawnPages:
    """The pages between any two of ``names``, by the pictures there are."""

    style: str
    names: Sequence[str]  # the base and the variants
    training_seeds: Sequence[int]
    pictures: StylePictures
    digests: Mapping[Path, str]

    def find(self, content: Mapping[str, Any]) -> Questions | None:
        """The page that the choices file with this ``content`` is about.

        None where it is about other pictures. Several can have drawn the same pictures, such as
        variants that were not trained for a step: then the pair that the file was made for is
        taken.
        """
        page_id, most, pictures = content["page"], content["asked"], self.pictures
        matches = []
        for seed, (a, b) in product(
            sorted(self.training_seeds), combinations(sorted(self.names), 2)
        ):
            if not {_sampled(a, seed), _sampled(b, seed)} <= pictures.samples.keys():
                continue
            is_other = pair_id(page_id, a, b, seed) != content.get("pair")
            for first in (None, a, b):
                pairs = _pairs(pictures, self.digests, a, b, seed, first)
                if _page_id(self.style, pairs, most) == page_id:
                    matches.append((is_other, seed, a, b, first))
        if not matches:
            return None
        _, seed, a, b, first = min(matches, key=lambda match: match[0])
        return draw_questions(pictures, self.digests, self.style, a, b, most, seed, first)

    def names_pair(self, content: Mapping[str, Any]) -> bool:
        """The two that the file was made for are still among ``names``, their seed too."""
        return any(
            pair_id(content["page"], a, b, seed) == content["pair"]
            for a, b in combinations(self.names, 2)
            for seed in self.training_seeds
        )


def pair_id(page_id: str, a: str, b: str, training_seed: int) -> str:
    """A digest of the two names, in any order, and the training seed; salted by the page."""
    return _short(json.dumps([page_id, sorted((a, b)), training_seed]))


def _pairs(
    pictures: StylePictures,
    digests: Mapping[Path, str],
    a: str,
    b: str,
    training_seed: int,
    first: str | None,
) -> list[_Pair]:
    pairs = []
    samples = (pictures.samples[_sampled(name, training_seed)] for name in (a, b))
    for of_a, of_b in zip(*samples, strict=True):
        own = digests[of_a.path], digests[of_b.path]
        a_is_first = first == a if first is not None else (own[0], a) < (own[1], b)
        pairs.append(_Pair(of_a, of_b, a_is_first, own if a_is_first else own[::-1]))
    return pairs


def _page_id(style: str, pairs: Sequence[_Pair], most: int) -> str:
    return _short(json.dumps([style, sorted(pair.digests for pair in pairs), most]))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sampled(name: str, training_seed: int) -> str:
    """What the pictures of a variant's training, or of the base, are called."""
    return name if name == BASE else TrainingRun(name, training_seed).name
