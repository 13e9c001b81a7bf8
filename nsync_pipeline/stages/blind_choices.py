"""Blind choices: the page of pairs for two checkpoints, and what people chose on it.

The order of the pairs and which side is whose are drawn from named streams over the pictures'
digests. So nothing but the pictures is needed to read choices later, and choices about pictures
that are no longer there are known for what they are.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from nsync_pipeline.artifacts import BASE, TrainingRun, Workspace
from nsync_pipeline.errors import ChoicesError
from nsync_pipeline.image_sets.contact_sheet import evenly_spaced
from nsync_pipeline.metrics.preference import LOST, TIED, WON
from nsync_pipeline.params import Params
from nsync_pipeline.report.blind_page import FORMAT, BlindPage, BlindPair
from nsync_pipeline.report.pictures import embedded
from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.stages.picture_files import file_sha256, open_picture, open_squares
from nsync_pipeline.stages.picture_sets import Sample, StylePictures, read_style_pictures

SHOWN_SIDE = 480  # pixels
REFERENCE_PICTURES = 10
REFERENCE_SIDE = 168  # pixels
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


@dataclass(frozen=True)
class Choices:
    """What was chosen between two variants (or the base), over all files about their trainings."""

    a: str
    b: str
    prompts: tuple[str, ...]  # of each choice, the prompt's id
    outcomes: tuple[float, ...]  # for a
    files: int


def draw_questions(
    pictures: StylePictures, style: str, a: str, b: str, most: int, training_seed: int
) -> Questions:
    """At most ``most`` pairs of a's and b's pictures of one prompt and seed, in random order.

    The pictures of a variant are those of its training with ``training_seed``.
    """
    of = {name: pictures.samples[_sampled(name, training_seed)] for name in (a, b)}
    pairs = list(zip(of[a], of[b], strict=True))
    digests = [[file_sha256(sample.path) for sample in pair] for pair in pairs]
    content = json.dumps([style, sorted(digests), most]).encode()
    page_id = hashlib.sha256(content).hexdigest()[:ID_DIGITS]
    seed = int(page_id, 16) >> 1
    order = numpy_stream(seed, "blind order").permutation(len(pairs))[:most]
    asked = []
    for place in order.tolist():
        first, second = digests[place]
        told = f"{page_id} {min(first, second)} {max(first, second)} {pairs[place][0].id}"
        name = hashlib.sha256(told.encode()).hexdigest()[:ID_DIGITS]
        side = numpy_stream(seed, "blind side", name).integers(2)
        of_a, of_b = pairs[place]
        asked.append(Question(name, of_a, of_b, a_is_left=bool(side)))
    return Questions(a, b, page_id, tuple(asked))


def blind_page(
    workspace: Workspace,
    params: Params,
    style: str,
    a: str,
    b: str,
    most: int,
    training_seed: int | None = None,
) -> BlindPage:
    """The page that asks between the pictures of ``a`` and ``b``.

    Of a variant they are those of its training with ``training_seed``; None: the first of
    ``training_seeds``.

    Raises:
        MissingArtifactError: pictures are missing.
        ParamsError: there is no such training seed.
        ChoicesError: a and b are the same.
    """
    if a == b:
        raise ChoicesError(f"a choice is between two: {a!r} is named twice")
    seed = params.training_seed(training_seed)
    runs = [TrainingRun(name, seed) for name in (a, b) if name != BASE]
    pictures = read_style_pictures(workspace, style, runs)
    questions = draw_questions(pictures, style, a, b, most, seed)
    chosen = evenly_spaced(len(pictures.train), REFERENCE_PICTURES)
    real = [pictures.train[index].path for index in chosen]
    pairs = []
    for question in questions.asked:
        samples = (question.of_a, question.of_b)
        left, right = samples if question.a_is_left else samples[::-1]
        shown = (embedded(open_picture(s.path), "", SHOWN_SIDE) for s in (left, right))
        pairs.append(BlindPair(question.id, question.of_a.caption, *shown))
    return BlindPage(
        style=style,
        page_id=questions.page_id,
        asked=most,
        reference=tuple(
            embedded(square, "a real picture of the style", REFERENCE_SIDE)
            for square in open_squares(real, 2 * REFERENCE_SIDE)
        ),
        pairs=tuple(pairs),
    )


def take_choices(workspace: Workspace, params: Params, file: Path) -> tuple[Choices, str, Path]:
    """Check a choices file and copy it into ``choices/<style>``; the file itself stays as it is.

    Returns what it says, its style, and the copy.

    Raises:
        ChoicesError: it is no choices file, or about pictures that are not there (any more).
    """
    content = _read(file)
    style = content["style"]
    if style not in params.styles:
        raise ChoicesError(f"{file} is about the style {style!r}, which is not in params.yaml")
    found = matched_choices(workspace, params, style, [content], str(file))
    kept = workspace.choices(style) / f"{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    shutil.copyfile(file, partial)
    partial.replace(kept)
    return found[0], style, kept


def read_choices(workspace: Workspace, params: Params, style: str) -> tuple[list[Choices], int]:
    """What was chosen about the pictures there are, and how many files are about others."""
    contents = [_read(file) for file in sorted(workspace.choices(style).glob("*.json"))]
    usable, others = [], 0
    for content in contents:
        try:
            matched_choices(workspace, params, style, [content], "")
        except ChoicesError:
            others += 1
        else:
            usable.append(content)
    return matched_choices(workspace, params, style, usable, "") if usable else [], others


def matched_choices(
    workspace: Workspace,
    params: Params,
    style: str,
    contents: Sequence[Mapping[str, Any]],
    where: str,
) -> list[Choices]:
    """The choices of several files, those about the same two variants together.

    Raises:
        ChoicesError: one is about other pictures, or names pairs that its page did not ask.
    """
    pictures = read_style_pictures(workspace, style, params.training_runs())
    together: dict[tuple[str, str], list[tuple[str, float]]] = {}
    files: dict[tuple[str, str], int] = {}
    for content in contents:
        questions = _questions_of(content, pictures, style, params, where)
        asked = {question.id: question for question in questions.asked}
        between = (questions.a, questions.b)
        files[between] = files.get(between, 0) + 1
        for name, side in sorted(content["choices"].items()):
            if name not in asked or side not in ("left", "right", "neither"):
                raise ChoicesError(f"{where}: {name!r}: {side!r} is no choice its page offered")
            made = (asked[name].of_a.prompt_id, _outcome(asked[name], side))
            together.setdefault(between, []).append(made)
    return [
        Choices(
            a,
            b,
            tuple(prompt for prompt, _ in made),
            tuple(outcome for _, outcome in made),
            files[a, b],
        )
        for (a, b), made in sorted(together.items())
    ]


def _sampled(name: str, training_seed: int) -> str:
    """What the pictures of a variant's training, or of the base, are called."""
    return name if name == BASE else TrainingRun(name, training_seed).name


def _outcome(question: Question, side: str) -> float:
    """For a."""
    if side == "neither":
        return TIED
    return WON if (side == "left") == question.a_is_left else LOST


def _questions_of(
    content: Mapping[str, Any],
    pictures: StylePictures,
    style: str,
    params: Params,
    where: str,
) -> Questions:
    """The page a file is about: it does not say of whom, so each two of a seed are tried."""
    for seed in params.training_seeds:
        for b, a in combinations((BASE, *params.variants), 2):
            questions = draw_questions(pictures, style, a, b, content["asked"], seed)
            if questions.page_id == content["page"]:
                return questions
    raise ChoicesError(
        f"{where} is about pictures of {style!r} that are not there: they were drawn again since "
        "its page was made, or it is another workspace's. Make a new one: `nsync blind make`."
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        whole = (
            content["format"] == FORMAT
            and isinstance(content["style"], str)
            and isinstance(content["page"], str)
            and isinstance(content["asked"], int)
            and isinstance(content["choices"], dict)
            and len(content["choices"]) > 0
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ChoicesError(f"{file} is no choices file: {error}") from error
    if not whole:
        raise ChoicesError(f"{file} is no choices file of this version, or holds no choice")
    checked: dict[str, Any] = content
    return checked
