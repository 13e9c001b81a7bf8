"""The page of pairs for two checkpoints, from the pictures they drew."""

from dataclasses import asdict, dataclass
from pathlib import Path

from nsync_pipeline.blind.questions import draw_questions, picture_digests
from nsync_pipeline.errors import ChoicesError
from nsync_pipeline.pictures.embedded import Picture, embedded
from nsync_pipeline.pictures.pixels import open_picture, open_squares
from nsync_pipeline.pictures.sheets import evenly_spaced
from nsync_pipeline.pictures.style_pictures import read_style_pictures
from nsync_pipeline.templates import script_json, templates_in
from nsync_pipeline.workspace import BASE, TrainingRun, Workspace

FOLDER = Path(__file__).parent
FORMAT = "nsync-choices-3"  # what a choices file says it is
SHOWN_SIDE = 480  # pixels
REFERENCE_PICTURES = 10
REFERENCE_SIDE = 168  # pixels


@dataclass(frozen=True)
class BlindPair:
    id: str  # says nothing of who drew what
    caption: str
    left: Picture
    right: Picture


@dataclass(frozen=True)
class BlindPage:
    style: str
    page_id: str  # of the two sets of pictures
    pair_id: str  # of the two names; which they are cannot be read from it
    asked: int  # at most so many pairs were asked for
    reference: tuple[Picture, ...]  # real pictures of the style
    pairs: tuple[BlindPair, ...]


def render_blind_page(page: BlindPage) -> str:
    """The HTML of ``page``; it needs nothing besides itself."""
    identity = {
        "format": FORMAT,
        "style": page.style,
        "page": page.page_id,
        "pair": page.pair_id,
        "asked": page.asked,
    }
    return (
        templates_in(FOLDER)
        .get_template("blind_page.html")
        .render(
            page=page,
            pairs=script_json([asdict(pair) for pair in page.pairs]),
            identity=script_json(identity),
        )
    )


def blind_page(
    workspace: Workspace, style: str, a: str, b: str, most: int, training_seed: int
) -> BlindPage:
    """The page that asks between the pictures of ``a`` and ``b``, in whichever order.

    Of a variant they are those of its training with ``training_seed``.

    Raises:
        MissingArtifactError: pictures are missing.
        ChoicesError: a and b are the same.
    """
    if a == b:
        raise ChoicesError(f"a choice is between two: {a!r} is named twice")
    runs = [TrainingRun(name, training_seed) for name in (a, b) if name != BASE]
    pictures = read_style_pictures(workspace, style, runs)
    digests = picture_digests(pictures)
    questions = draw_questions(pictures, digests, style, a, b, most, training_seed)
    spaced = evenly_spaced(len(pictures.train), REFERENCE_PICTURES)
    real = open_squares([pictures.train[index].path for index in spaced], 2 * REFERENCE_SIDE)
    pairs = []
    for question in questions.asked:
        samples = (question.of_a, question.of_b)
        left, right = samples if question.a_is_left else samples[::-1]
        shown = (embedded(open_picture(s.path), "", SHOWN_SIDE) for s in (left, right))
        pairs.append(BlindPair(question.id, question.of_a.caption, *shown))
    return BlindPage(
        style=style,
        page_id=questions.page_id,
        pair_id=questions.pair_id,
        asked=most,
        reference=tuple(
            embedded(square, "a real picture of the style", REFERENCE_SIDE) for square in real
        ),
        pairs=tuple(pairs),
    )
