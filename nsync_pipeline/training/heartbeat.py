"""Noticing that another process is gone where no connection says so: its machine is off, say."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nsync_pipeline.errors import LostProcessError
from nsync_pipeline.training.ranks import Rank

EVERY = 5.0
"""Seconds between two beats."""

SILENCE = 45.0
"""Seconds without a beat after which a process counts as gone: the others end within a minute."""


@contextmanager
def heartbeat(rank: Rank) -> Iterator[None]:
    """Beat, and listen to the other processes, in a thread; end this process where one is gone.

    A collective cannot be interrupted from within the process: it is ended where it stands.
    """
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    ended = threading.Event()
    # A connection of its own: the main thread may hold the other one for long.
    dist: Any = torch.distributed  # its stubs do not know its stores
    store = dist.PrefixStore("nsync", dist.TCPStore(*address, is_master=False))
    thread = threading.Thread(target=_listen, args=(store, rank, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _listen(store: Any, rank: Rank, ended: threading.Event) -> None:
    heard = dict.fromkeys(range(rank.count), (0, time.monotonic()))
    while not ended.wait(EVERY):
        now = time.monotonic()
        try:
            store.add(f"beat {rank.index}", 1)
            beats = {other: store.add(f"beat {other}", 0) for other in heard}
        except RuntimeError as error:  # the first process, which keeps the beats, is gone
            _end(f"process 0 of {rank.count} cannot be reached: {error}", ended)
            return
        for other, beat in beats.items():
            if beat != heard[other][0]:
                heard[other] = (beat, now)
            elif now - heard[other][1] > SILENCE:
                _end(
                    f"process {other} of {rank.count} has not been heard for {SILENCE:.0f} s", ended
                )
                return


def _end(reason: str, ended: threading.Event) -> None:
    if ended.wait(EVERY):  # this process was at its end, and so was the other
        return
    print(f"nsync: the training ends: {reason}", file=sys.stderr, flush=True)
    os._exit(LostProcessError.exit_code)
