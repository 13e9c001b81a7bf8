"""The order of training is a pure function of the seed, the pictures and the step."""

from collections import Counter
from typing import Any

from nsync_pipeline.training.triplets import TripletOrder

IDS = [f"picture{index}" for index in range(7)]


def order(
    ids: list[str] = IDS,
    seed: int = 0,
    negatives: int = 3,
    samples: int = 4,
    shapes: list[tuple[int, ...]] | None = None,
    **settings: Any,
) -> TripletOrder:
    shapes = shapes or [(4, 8, 8)] * len(ids)
    return TripletOrder(seed, ids, shapes, [negatives] * len(ids), samples, **settings)


def positives(of: TripletOrder, steps: int) -> list[int]:
    return [triplet.positive for step in range(steps) for triplet in of.triplets(step)]


def test_an_epoch_has_every_picture_once() -> None:
    """7 steps of 4 are 28 samples: four epochs of 7."""
    seen = positives(order(), 7)
    for epoch in range(4):
        assert sorted(seen[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert seen[:7] != seen[7:14]


def test_a_step_does_not_depend_on_those_before() -> None:
    unbroken = order()
    steps = [unbroken.triplets(step) for step in range(20)]
    assert order().triplets(13) == steps[13]
    assert [order().triplets(step) for step in reversed(range(20))] == steps[::-1]


def test_micro_batches_do_not_change_the_order() -> None:
    """The order knows only the samples a step: 2 micro-batches of 2 are one batch of 4."""
    assert [triplet.position for triplet in order(samples=4).triplets(5)] == [0, 1, 2, 3]


def test_another_seed_is_another_order() -> None:
    assert positives(order(seed=1), 7) != positives(order(seed=0), 7)


def test_adding_a_picture_leaves_the_order_of_the_others() -> None:
    """In the first epoch, before which nothing can shift."""
    more = ["another", *IDS]
    first = [IDS[i] for i in positives(order(samples=7), 1)]
    with_another = [more[i] for i in positives(order(more, samples=8), 1)]
    assert [name for name in with_another if name != "another"] == first


def test_the_anchor_is_another_picture_and_any_of_them() -> None:
    triplets = [triplet for step in range(200) for triplet in order().triplets(step)]
    assert all(triplet.anchor != triplet.positive for triplet in triplets)
    pairs = Counter((triplet.positive, triplet.anchor) for triplet in triplets)
    assert len(pairs) == 7 * 6


def test_of_two_pictures_each_is_the_others_anchor() -> None:
    for triplet in order(["a", "b"]).triplets(0):
        assert triplet.anchor == 1 - triplet.positive


def test_a_single_picture_is_its_own_anchor() -> None:
    for triplet in order(["a"]).triplets(3):
        assert (triplet.positive, triplet.anchor) == (0, 0)


def test_every_negative_of_a_picture_comes_up() -> None:
    triplets = [triplet for step in range(50) for triplet in order().triplets(step)]
    assert {triplet.negatives for triplet in triplets} == {(0,), (1,), (2,)}
    single = [t for step in range(5) for t in order(negatives=1).triplets(step)]
    assert {triplet.negatives for triplet in single} == {(0,)}


def test_captions_are_dropped_at_their_share() -> None:
    """Of 2,000 triplets at 0.25: 500, give or take 5 deviations (19.4 each)."""
    dropping = order(caption_dropout=0.25)
    dropped = sum(t.prompt_form == "empty" for step in range(500) for t in dropping.triplets(step))
    assert abs(dropped - 500) < 97
    assert {t.prompt_form for step in range(50) for t in order().triplets(step)} == {"whole"}


def test_dropping_captions_changes_nothing_else() -> None:
    plain, dropping = order().triplets(4), order(caption_dropout=0.9).triplets(4)
    assert [(t.positive, t.anchor, t.negatives) for t in plain] == [
        (t.positive, t.anchor, t.negatives) for t in dropping
    ]
