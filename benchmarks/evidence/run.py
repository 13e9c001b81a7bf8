"""Carrying out the trials of a table: a worker process a core, or one on the GPU."""

import fcntl
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.evidence.matrix import SEEDS, Table, Trial, settings
from benchmarks.evidence.results import Result, read_result, write_result

PAUSE = 5.0
"""Seconds between two looks at trials that others are at."""


def pending(table: Table, results: Path) -> list[Trial]:
    """The trials without a result, in order."""
    return [t for t in table.trials() if read_result(results, t, table.scale) is None]


def run_table(table: Table, folder: Path, results: Path, workers: int) -> list[str]:
    """Carry out what has no result yet in ``workers`` processes; what went wrong, a line each."""
    before = len(pending(table, results))
    print(f"{table.name}: {len(table.trials()) - before} trials are done, {before} to do")
    if not before:
        return []
    command = [sys.executable, "-m", "benchmarks.evidence", "work", "--table", table.name]
    command += ["--folder", str(folder), "--results", str(results)]
    command += ["--sets", *table.sets, "--styles", *table.styles, "--methods", *table.methods]
    command += ["--seeds", *map(str, table.seeds)]
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    processes = [subprocess.Popen(command, env=environment) for _ in range(workers)]
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    wrong = [f"worker {n} ended with code {code}" for n, code in enumerate(codes) if code]
    left = len(pending(table, results))
    return wrong + ([f"{left} trials have no result: run this again"] if left else [])


def diagnose_table(table: Table, folder: Path, results: Path) -> None:
    """Diagnose each training of ``table`` that was not yet; one after another."""
    from benchmarks.evidence.diagnoses import (
        diagnose_trial,
        read_diagnosis,
        trainings_of,
        write_diagnosis,
    )

    trainings = trainings_of(table)
    left = [t for t in trainings if read_diagnosis(results, t, table.scale) is None]
    print(f"{table.name}: {len(trainings) - len(left)} trainings are diagnosed, {len(left)} to do")
    for trial in left:
        start = time.monotonic()
        with _claimed(folder / "locks" / _training(trial), wait=True):
            write_diagnosis(results, trial, diagnose_trial(trial, table.scale, folder))
        print(f"{_training(trial)} ({time.monotonic() - start:.0f} s)", flush=True)


def work(table: Table, folder: Path, results: Path) -> bool:
    """One worker: take a trial that nobody is at, until none is left; False where one failed."""
    failed: set[Trial] = set()
    while True:
        left = [trial for trial in pending(table, results) if trial not in failed]
        if not left:
            return not failed
        done = 0
        for trial in left:
            with _claimed(folder / "locks" / _training(trial)) as mine:
                if not mine or read_result(results, trial, table.scale) is not None:
                    continue
                try:
                    _carry_out(trial, table, folder, results)
                except Exception:
                    traceback.print_exc()
                    print(f"{_name(trial)} failed", file=sys.stderr, flush=True)
                    failed.add(trial)
                done += 1
        if not done:
            time.sleep(PAUSE)


def _carry_out(trial: Trial, table: Table, folder: Path, results: Path) -> None:
    # Only here: what only looks for something to do needs no torch.
    from benchmarks.evidence.trial import carry_out, keep_samples, prepare, workspace_of
    from nsync_pipeline.params import parse_params
    from nsync_pipeline.stage import silent_progress

    start = time.monotonic()
    asked = settings(trial, table.scale)
    workspace = workspace_of(folder, asked)
    with _claimed(workspace.lock(trial.style_key), wait=True):
        prepare(workspace, parse_params(asked), silent_progress)
    result = carry_out(trial, table.scale, folder, silent_progress)
    if trial.seed == SEEDS[0]:
        keep_samples(trial, table.scale, folder, results)
    write_result(results, result)
    left = len(pending(table, results))
    print(
        f"{_name(trial)}: {_in_short(result)} ({time.monotonic() - start:.0f} s); {left} left",
        flush=True,
    )


def _in_short(result: Result) -> str:
    means = {
        name.split("_")[0]: sum(values) / len(values) for name, values in result.pictures.items()
    }
    return ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())


def _name(trial: Trial) -> str:
    return f"{_training(trial)}, {trial.drawing}"


def _training(trial: Trial) -> str:
    """What one worker is at: all drawings of a training."""
    return f"{trial.style}-{trial.set}-{trial.variant}-{trial.seed}"


@contextmanager
def _claimed(lock: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process has ``lock``; the kernel lets go of it however the process ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
