"""The order of training is a pure function of the seed, the pictures and the step."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from nsync_pipeline.training.triplets import TripletOrder

IDS = [f"picture{index}" for index in range(7)]


def order(
    ids: list[str] = IDS,
    seed: int = 0,
    negatives: int = 3,
    samples: int = 4,
    shapes: Sequence[tuple[int, ...]] | None = None,
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


def test_contents_are_dropped_at_their_share_of_what_has_a_caption() -> None:
    """Of 2,000 at 0.5, 1,000 give or take 5 deviations (22.4 each); never in place of the empty."""
    both = order(caption_dropout=0.25, content_dropout=0.5)
    forms = Counter(t.prompt_form for step in range(500) for t in both.triplets(step))
    alone = order(content_dropout=0.5)
    dropped = Counter(t.prompt_form for step in range(500) for t in alone.triplets(step))
    assert abs(dropped["style_only"] - 1000) < 112
    assert dropped["empty"] == 0
    # A quarter is empty, and of the other 1,500 a half is the style alone (5 deviations: 97).
    assert abs(forms["empty"] - 500) < 97
    assert abs(forms["style_only"] - 750) < 97


def test_content_dropout_changes_nothing_else() -> None:
    plain, dropping = order().triplets(4), order(content_dropout=0.9).triplets(4)
    assert [(t.positive, t.anchor, t.negatives) for t in plain] == [
        (t.positive, t.anchor, t.negatives) for t in dropping
    ]


def test_several_negatives_are_distinct_and_begin_with_the_only_one() -> None:
    several = TripletOrder(0, IDS, [(1,)] * 7, [5] * 7, 4, negatives=3)
    single = TripletOrder(0, IDS, [(1,)] * 7, [5] * 7, 4, negatives=1)
    for step in range(50):
        for many, one in zip(several.triplets(step), single.triplets(step), strict=True):
            assert len(set(many.negatives)) == 3
            assert many.negatives[:1] == one.negatives
            assert many.negatives_of == many.positive
    orders = {t.negatives for step in range(200) for t in several.triplets(step)}
    assert len(orders) == 5 * 4 * 3


def test_a_rule_without_negatives_has_none() -> None:
    none = TripletOrder(0, IDS, [(1,)] * 7, [0] * 7, 4, negatives=0)
    assert none.triplets(0)[0].negatives == ()


def test_recombined_negatives_are_of_any_other_picture() -> None:
    mixed = order(recombined=True)
    triplets = [triplet for step in range(200) for triplet in mixed.triplets(step)]
    assert len({(t.positive, t.negatives_of) for t in triplets}) == 7 * 6
    assert all(t.negatives_of != t.positive for t in triplets)
    assert any(t.negatives_of != t.anchor for t in triplets)
    single = order(["a"], recombined=True).triplets(0)[0]
    assert single.negatives_of == 0


WIDE, TALL, SQUARE = (4, 6, 10), (4, 10, 6), (4, 8, 8)
MIXED = [WIDE] * 9 + [TALL] * 5 + [SQUARE] * 3
MANY = [f"picture{index}" for index in range(17)]


def test_a_triplets_pictures_are_of_one_shape() -> None:
    mixed = order(MANY, shapes=MIXED, recombined=True)
    for step in range(50):
        for t in mixed.triplets(step):
            assert MIXED[t.anchor] == MIXED[t.positive] == MIXED[t.negatives_of]
            assert t.anchor != t.positive


def test_steps_hold_one_shape_where_they_can() -> None:
    """Of 17 pictures in steps of 4 an epoch has 2 runs of 4 wide and 1 of 4 tall; 5 are loose.

    Over 8 epochs those are 24 of the 34 steps, but for a run broken up where fewer pictures are
    loose than the step that the epoch begins in still needs: at most 3, and 5 are loose.
    """
    mixed = order(MANY, shapes=MIXED)
    shapes = [{MIXED[t.positive] for t in mixed.triplets(step)} for step in range(34)]
    assert sum(len(step) == 1 for step in shapes) >= 24


def test_an_epoch_of_several_shapes_has_every_picture_once() -> None:
    seen = positives(order(MANY, shapes=MIXED), 17 * 4)
    for epoch in range(16):
        assert sorted(seen[17 * epoch : 17 * epoch + 17]) == list(range(17))
    assert seen[:17] != seen[17:34]


def test_steps_of_several_shapes_do_not_depend_on_those_before() -> None:
    unbroken = order(MANY, shapes=MIXED)
    steps = [unbroken.triplets(step) for step in range(20)]
    assert [order(MANY, shapes=MIXED).triplets(step) for step in range(20)] == steps
