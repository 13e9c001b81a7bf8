"""Kill a training with SIGKILL at random moments; compare what comes of it with an unbroken one.

    python -m tests.support.kill_training --kills 20

Every run is a process of its own on a tiny base, with a running estimate of the negatives, an
average of the weights and looks that choose the weights to keep. Where a training comes to its end
before all kills have hit, its result is compared and it begins again.
"""

import argparse
import hashlib
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nsync_pipeline.files import file_sha256
from nsync_pipeline.params import Params
from nsync_pipeline.workspace import LORA_FILE, Workspace
from tests.support import training_process
from tests.support.tiny_models import save_tiny_stable_diffusion
from tests.support.tiny_style import STYLE, tiny_family, tiny_params, write_tiny_style

TRAINING = {
    "steps": 30,
    "batch_size": 2,
    "accumulation": 2,
    "learning_rate": 0.01,
    "schedule": "cosine_with_restarts",
    "schedule_cycles": 2,
    "warmup_steps": 3,
    "ema_decay": 0.9,
    "contrast": {"negative_estimate": "running_mean"},
    "lora": {"rank": 2, "alpha": 4.0},
    "checkpoint_every": 3,
}
VARIANT = "nsync"


@dataclass
class Killer:
    """Trains one workspace again and again, and kills it on the way."""

    workspace: Workspace
    params: Params
    random: random.Random
    kills: int = 0
    runs: int = 0
    hashes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._processes = multiprocessing.get_context("forkserver")
        # Imported once: else most kills would only hit imports.
        self._processes.set_forkserver_preload(["nsync_pipeline.training.stage"])

    def train(self, dies_after: float | None) -> tuple[bool, int]:
        """Run it; SIGKILL after so many seconds. Whether that hit, and the steps done by then."""
        receiver, sender = self._processes.Pipe(duplex=False)
        process = self._processes.Process(
            target=training_process.train_in_process,
            args=(self.workspace.root, self.params, STYLE, VARIANT, None, sender),
        )
        process.start()
        sender.close()
        self.runs += 1
        process.join(dies_after)
        hit = process.is_alive()
        process.kill()
        process.join()
        if not hit and process.exitcode != 0:
            raise SystemExit(f"the training failed by itself: exit code {process.exitcode}")
        return hit, max(_received(receiver), default=0)

    def until(self, kills: int) -> None:
        """Train until so many kills have hit and the training they hit has come to its end."""
        self.train(None)  # the first waits for imports, too
        self._take_result("unbroken")
        started = time.monotonic()
        self.train(None)
        whole = time.monotonic() - started
        self._take_result("unbroken")
        while True:
            after = self.random.uniform(0, whole) if self.kills < kills else None
            hit, steps = self.train(after)
            if hit:
                self.kills += 1
                print(f"kill {self.kills}: after {after:.2f} s, at step {steps}", flush=True)
            else:
                self._take_result(f"after {self.kills} kills")
                if self.kills == kills:
                    return

    def _take_result(self, when: str) -> None:
        folder = self.workspace.model(STYLE, VARIANT, 0)
        digest = hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder)} {file_sha256(path)}".encode())
        lora = folder / LORA_FILE
        print(f"{when}: {hashlib.sha256(lora.read_bytes()).hexdigest()}  {lora.name}", flush=True)
        self.hashes.add(digest.hexdigest())
        shutil.rmtree(folder)


def _received(receiver: "multiprocessing.connection.Connection") -> Iterator[int]:
    while True:
        try:
            yield receiver.recv()
        except EOFError:
            return


def killer(folder: Path, seed: int) -> Killer:
    """A tiny base and style in ``folder``, ready to be trained."""
    base = save_tiny_stable_diffusion(folder / "base")
    workspace = Workspace(folder / "workspace")
    write_tiny_style(workspace, tiny_family(base).revision)
    return Killer(workspace, tiny_params(base, TRAINING), random.Random(seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        training = killer(Path(folder), arguments.seed)
        training.until(arguments.kills)
    same = len(training.hashes) == 1
    print(
        f"{training.kills} kills in {training.runs} runs: every file of every result is "
        f"{'the same to the byte' if same else 'NOT the same'}"
    )
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
