"""The page of pairs for two checkpoints, from the pictures they drew."""

from nsync_pipeline.artifacts import BASE, TrainingRun, Workspace
from nsync_pipeline.errors import ChoicesError
from nsync_pipeline.image_sets.contact_sheet import evenly_spaced
from nsync_pipeline.params import Params
from nsync_pipeline.report.blind_page import BlindPage, BlindPair
from nsync_pipeline.report.pictures import embedded
from nsync_pipeline.stages.blind_questions import draw_questions, picture_digests
from nsync_pipeline.stages.picture_files import open_picture, open_squares
from nsync_pipeline.stages.picture_sets import read_style_pictures

SHOWN_SIDE = 480  # pixels
REFERENCE_PICTURES = 10
REFERENCE_SIDE = 168  # pixels


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
    digests = picture_digests(pictures)
    questions = draw_questions(pictures, digests, style, a, b, most, seed)
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
