"""The wordings of a picture's captions: which are drawn, and tags shuffled and left out.

They are a finite set, drawn before the training from streams of the picture's id: so all of them
are encoded once, every variant and training seed has the same, and a training that goes on reads
what an unbroken one would.
"""

from collections.abc import Sequence

import numpy as np

from nsync_pipeline.seeding import numpy_stream
from nsync_pipeline.training.config import TagsConfig


def wordings_of(
    captions: Sequence[str], tags: TagsConfig, seed: int, picture: str
) -> tuple[str, ...]:
    """What ``picture`` is trained with, each as often as the others: its captions themselves, or
    ``tags.wordings`` wordings of each."""
    if not tags.changes_captions:
        return tuple(captions)
    return tuple(
        reworded(caption, tags, numpy_stream(seed, "wording", picture, number, wording))
        for number, caption in enumerate(captions)
        for wording in range(tags.wordings)
    )


def reworded(caption: str, tags: TagsConfig, stream: np.random.Generator) -> str:
    """``caption`` with the tags between those that stay in another order, and some left out.

    One tag is left at the least.
    """
    parts = tags_of(caption, tags.separator)
    end = max(len(parts) - tags.keep_last, tags.keep_first)
    first, middle, last = parts[: tags.keep_first], parts[tags.keep_first : end], parts[end:]
    drawn = stream.random(len(middle))
    kept = [tag for tag, chance in zip(middle, drawn, strict=True) if chance >= tags.dropout]
    if tags.shuffle:
        kept = [kept[place] for place in stream.permutation(len(kept))]
    together = [*first, *kept, *last] or [parts[int(stream.integers(len(parts)))]]
    return f"{tags.separator.strip()} ".join(together)


def tags_of(caption: str, separator: str) -> list[str]:
    """The parts between the separators; the whole caption where it has none."""
    return [tag for part in caption.split(separator) if (tag := part.strip())] or [caption]
