"""Saving what was drawn while the next is being drawn."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def written_behind(items: Iterable[Item], write: Callable[[Item], None]) -> Iterator[Item]:
    """``items``, each given back once ``write`` is done with it, in order.

    While one is written (in another thread, one at a time), the next is made. So nothing is held
    but the one being written and the one being made, and what is given back is safely written.

    Raises:
        Exception: what making or writing raised. What was made before is still written, except
            after writing failed; then nothing more is made.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="written-behind") as writer:
        behind: tuple[Item, Future[None]] | None = None
        try:
            for item in items:
                before, behind = behind, None
                if before is not None:
                    before[1].result()
                behind = (item, writer.submit(write, item))
                if before is not None:
                    yield before[0]
        finally:
            if behind is not None:
                behind[1].result()
        if behind is not None:
            yield behind[0]
