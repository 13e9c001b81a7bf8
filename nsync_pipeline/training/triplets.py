"""Which pictures make up a batch: positives, their negatives and anchors, by named streams."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from nsync_pipeline.contrast.config import branches_of
from nsync_pipeline.seeding import numpy_stream, stream_seed
from nsync_pipeline.training.config import TrainingConfig
from nsync_pipeline.training.encoded_set import EncodedSet

PromptForm = Literal["whole", "style_only", "empty"]
"""What is left of a triplet's prompts: all, the style phrase, or nothing."""


@dataclass(frozen=True)
class Triplet:
    """One sample of a batch, by places in the training set."""

    position: int  # in the batch of the whole optimizer step: it names the sample's random draws
    positive: int  # of the training pictures
    negatives: tuple[int, ...]  # of the negatives of `negatives_of`, all distinct
    negatives_of: int  # of the training pictures: the positive, or another whose content they have
    anchor: int  # of the training pictures; another than the positive where there are two or more
    prompt_form: PromptForm  # of all branches
    wording: int = 0  # of all branches: which, counted round and round


@dataclass
class TripletOrder:
    """The triplets of every optimizer step: a pure function of the step.

    Positives go by epochs, each in an order of its own: by the hash of (seed, epoch, picture id).
    Adding a picture leaves the order of the others as it was. Where latents have several shapes,
    those of one shape go in runs of a step's length, so that few steps mix shapes; a triplet's
    pictures are all of one shape.
    """

    seed: int
    ids: Sequence[str]  # of the training pictures
    shapes: Sequence[tuple[int, ...]]  # of their latents
    negative_counts: Sequence[int]  # how many negatives each of them has, `negatives` or more
    samples: int  # triplets an optimizer step, over all its micro-batches
    negatives: int = 1  # of each triplet
    recombined: bool = False  # negatives are of another picture than the positive
    caption_dropout: float = 0.0  # share of triplets
    content_dropout: float = 0.0  # share of triplets
    wordings: int = 1  # that a picture has at the most
    _orders: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)
    _alike: dict[tuple[int, ...], list[int]] = field(default_factory=dict, init=False, repr=False)
    _place: list[int] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        for index, shape in enumerate(self.shapes):
            alike = self._alike.setdefault(shape, [])
            self._place.append(len(alike))
            alike.append(index)

    def triplets(self, step: int) -> list[Triplet]:
        """The triplets of optimizer step ``step`` (from 0 on)."""
        return [self._triplet(step, position) for position in range(self.samples)]

    def _triplet(self, step: int, position: int) -> Triplet:
        epoch, place = divmod(step * self.samples + position, len(self.ids))
        positive = source = self._order(epoch)[place]
        if self.recombined:
            source = self._other(positive, "negatives_of", step, position)
        form: PromptForm = "whole"
        if self._happens(self.caption_dropout, "caption_dropout", step, position):
            form = "empty"
        elif self._happens(self.content_dropout, "content_dropout", step, position):
            form = "style_only"
        return Triplet(
            position=position,
            positive=positive,
            negatives=self._distinct(self.negative_counts[source], step, position),
            negatives_of=source,
            anchor=self._other(positive, "anchor", step, position),
            prompt_form=form,
            wording=self._wording(step, position),
        )

    def _wording(self, step: int, position: int) -> int:
        if self.wordings < 2:
            return 0
        return int(numpy_stream(self.seed, "wording", step, position).integers(2**62))

    def _other(self, picture: int, purpose: str, step: int, position: int) -> int:
        """Uniform over the other pictures of its shape; itself where it is the only one."""
        alike, place = self._alike[self.shapes[picture]], self._place[picture]
        if len(alike) == 1:
            return picture
        if len(alike) == 2:
            return alike[1 - place]
        other = int(numpy_stream(self.seed, purpose, step, position).integers(len(alike) - 1))
        return alike[other + 1 if other >= place else other]

    def _distinct(self, count: int, step: int, position: int) -> tuple[int, ...]:
        """Distinct ones of ``range(count)``; the first is the same however many are asked for."""
        if self.negatives == 0 or count < 2:
            return (0,) * self.negatives
        stream = numpy_stream(self.seed, "negative_choice", step, position)
        first = int(stream.integers(count))
        others = [other for other in range(count) if other != first]
        rest = stream.permutation(len(others))[: self.negatives - 1]
        return (first, *(others[index] for index in rest.tolist()))

    def _happens(self, share: float, purpose: str, step: int, position: int) -> bool:
        return share > 0 and numpy_stream(self.seed, purpose, step, position).random() < share

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            ranked = [(stream_seed(self.seed, "order", epoch, id_), id_) for id_ in self.ids]
            order = sorted(range(len(self.ids)), key=ranked.__getitem__)
            self._orders[epoch] = order if len(self._alike) < 2 else self._in_runs(epoch, order)
        return self._orders[epoch]

    def _in_runs(self, epoch: int, order: Sequence[int]) -> list[int]:
        """``order`` in runs of ``samples`` pictures of one shape, each beginning with a step.

        A run is where its last picture was. What is left of each shape fills the step that the
        epoch begins in the middle of, and the epoch's end.
        """
        waiting: dict[tuple[int, ...], list[int]] = {shape: [] for shape in self._alike}
        runs: list[list[int]] = []
        for picture in order:
            run = waiting[self.shapes[picture]]
            run.append(picture)
            if len(run) == self.samples:
                runs.append(run)
                waiting[self.shapes[picture]] = []
        loose = [picture for run in waiting.values() for picture in run]
        head = -epoch * len(order) % self.samples
        while len(loose) < head and runs:
            loose = runs.pop() + loose
        return loose[:head] + [picture for run in runs for picture in run] + loose[head:]


def triplet_order(examples: EncodedSet, settings: TrainingConfig, seed: int) -> TripletOrder:
    """The order of ``examples``, which have as many negatives as ``settings`` ask for."""
    return TripletOrder(
        seed=seed,
        ids=examples.ids,
        shapes=examples.shapes,
        negative_counts=examples.negative_counts,
        samples=settings.batch_size * settings.accumulation,
        negatives=branches_of(settings.update_rule, settings.contrast).pictures,
        recombined=settings.negatives_of == "other",
        caption_dropout=settings.caption_dropout,
        content_dropout=settings.content_dropout,
        wordings=max(map(len, examples.wordings)),
    )
