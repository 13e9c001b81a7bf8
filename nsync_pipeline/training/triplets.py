"""Which pictures make up a batch: positives, their negatives and anchors, by named streams."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nsync_pipeline.seeding import numpy_stream, stream_seed


@dataclass(frozen=True)
class Triplet:
    """One sample of a batch, by places in the training set."""

    position: int  # in the batch of the whole optimizer step: it names the sample's random draws
    positive: int  # of the training pictures
    negative: int  # of the positive's own negatives; 0 where there is none
    anchor: int  # of the training pictures; another than the positive where there are two or more
    drop_caption: bool  # all three branches are trained on the empty prompt


@dataclass
class TripletOrder:
    """The triplets of every optimizer step: a pure function of the step.

    Positives go by epochs, each in an order of its own: by the hash of (seed, epoch, picture id).
    Adding a picture leaves the order of the others as it was.
    """

    seed: int
    ids: Sequence[str]  # of the training pictures
    negatives: Sequence[int]  # how many negatives each of them has
    samples: int  # triplets an optimizer step, over all its micro-batches
    caption_dropout: float  # share of triplets
    _orders: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)

    def triplets(self, step: int) -> list[Triplet]:
        """The triplets of optimizer step ``step`` (from 0 on)."""
        return [self._triplet(step, position) for position in range(self.samples)]

    def _triplet(self, step: int, position: int) -> Triplet:
        epoch, place = divmod(step * self.samples + position, len(self.ids))
        positive = self._order(epoch)[place]
        drop = numpy_stream(self.seed, "caption_dropout", step, position).random()
        return Triplet(
            position=position,
            positive=positive,
            negative=self._below(self.negatives[positive], "negative_choice", step, position),
            anchor=self._anchor(positive, step, position),
            drop_caption=bool(drop < self.caption_dropout),
        )

    def _anchor(self, positive: int, step: int, position: int) -> int:
        """Uniform over the other pictures; the positive itself where it is the only one."""
        other = self._below(len(self.ids) - 1, "anchor", step, position)
        return other + 1 if other >= positive and len(self.ids) > 1 else other

    def _below(self, count: int, purpose: str, step: int, position: int) -> int:
        """Uniform over ``range(count)``; 0 where that is empty."""
        if count < 2:
            return 0
        return int(numpy_stream(self.seed, purpose, step, position).integers(count))

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            ranked = [(stream_seed(self.seed, "order", epoch, id_), id_) for id_ in self.ids]
            self._orders[epoch] = sorted(range(len(self.ids)), key=ranked.__getitem__)
        return self._orders[epoch]
