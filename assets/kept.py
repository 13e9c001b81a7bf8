"""A server and all that it starts: ``python -m assets.kept PROGRAM ARGUMENT...``.

A server starts processes of its own, which keep its port when it alone is killed. They are of one
process group, which ends with the process that started this one, however that ends.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from nsync_pipeline.graph.processes import die_with_parent

PATIENCE = 15.0  # seconds that they have to end by themselves


def main() -> int:
    """Run the program until it ends, or this process is told to; gives its exit code."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: told.set())
    die_with_parent(signal.SIGTERM)
    program = subprocess.Popen(sys.argv[1:], process_group=0, preexec_fn=die_with_parent)

    def wait() -> None:
        program.wait()
        told.set()

    ended = threading.Thread(target=wait, daemon=True)
    ended.start()
    told.wait()
    _end(program.pid, signal.SIGTERM)
    ended.join(PATIENCE)
    _end(program.pid, signal.SIGKILL)
    code = program.wait()
    return code if code >= 0 else 128 - code


def _end(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main())
