"""Train or test: decided by a picture's own content, so that adding pictures moves no other."""

from collections.abc import Collection

TRAIN = "train"
TEST = "test"


def position(picture_id: str) -> float:
    """Where the picture lies in [0, 1): its id, the start of a SHA-256, as a fraction."""
    return int(picture_id, 16) / 16.0 ** len(picture_id)


def split_of(picture_ids: Collection[str], test_fraction: float) -> dict[str, str]:
    """``train`` or ``test`` for each id: test where ``position(id) < test_fraction``.

    Neither side may be empty. In a small set where the rule leaves one empty, the picture nearest
    to the border goes there: the lowest position to test, or the highest to train. That picture,
    and no other, may move when pictures are added, once the rule fills that side.

    Raises:
        ValueError: there are fewer than two ids.
    """
    if len(picture_ids) < 2:
        raise ValueError("a split needs at least two pictures")
    split = {i: TEST if position(i) < test_fraction else TRAIN for i in picture_ids}
    if TEST not in split.values():
        split[min(picture_ids, key=position)] = TEST
    if TRAIN not in split.values():
        split[max(picture_ids, key=position)] = TRAIN
    return split
