"""The benchmark's command, on trials that are much too small to say anything."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.evidence.comparison import CONTENT, LEAK, STYLE
from benchmarks.evidence.matrix import FULL, REDUCED, TABLES, Trial, settings
from benchmarks.evidence.page import write_page
from benchmarks.evidence.results import RESULTS, read_result, result_file, write_result
from benchmarks.evidence.run import pending
from nsync_pipeline.params import parse_params

REPOSITORY = Path(__file__).parents[2]
TABLE = TABLES["reduced"]


def command(folder: Path) -> list[str]:
    arguments = ["run", "--table", "reduced", "--folder", str(folder), "--workers", "2"]
    return [sys.executable, "-m", "benchmarks.evidence", *arguments]


@pytest.mark.pipeline
def test_a_killed_run_goes_on_and_makes_nothing_twice(tmp_path: Path) -> None:
    killed = subprocess.Popen(command(tmp_path), cwd=REPOSITORY, start_new_session=True)
    while len(pending(TABLE, tmp_path)) > len(TABLE.trials()) - 2:
        assert killed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    files = [result_file(tmp_path, trial) for trial in TABLE.trials()]
    kept = {file: file.stat().st_mtime_ns for file in files if file.is_file()}
    assert 2 <= len(kept) < len(files)

    done = subprocess.run(
        command(tmp_path), cwd=REPOSITORY, capture_output=True, text=True, timeout=500
    )

    assert done.returncode == 0, done.stderr
    assert not pending(TABLE, tmp_path)
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
    assert f"{len(kept)} trials are done" in done.stdout
    _is_told(tmp_path)

    again = subprocess.run(
        command(tmp_path), cwd=REPOSITORY, capture_output=True, text=True, timeout=100
    )
    assert "0 to do" in again.stdout


def _is_told(folder: Path) -> None:
    """The page tells what is in the result files."""
    page = (folder / "evidence.md").read_text(encoding="utf-8")
    for of in TABLE.sets:
        for method in TABLE.methods:
            values = []
            for seed in TABLE.seeds:
                trial = Trial("woodblock", of, method, seed)
                result = read_result(folder, trial, REDUCED)
                assert result is not None
                assert (LEAK in result.pictures) == (of == "night")
                assert len(result.pictures[CONTENT]) == REDUCED.test_pictures
                values.append(statistics.fmean(result.pictures[STYLE]))
            row = f"| `{method}` | {statistics.fmean(values):.2f} ("
            assert row in page.split(f"## {of.capitalize()}")[1], row
        assert (folder / "images" / f"evidence_{of}.jpg").stat().st_size > 1000
        assert (folder / "images" / f"evidence_{of}_rates.png").stat().st_size > 1000


def test_settings_of_every_trial_are_valid() -> None:
    for trial in TABLES["wide"].trials():
        if trial.seed == 0:
            params = parse_params(settings(trial, FULL))
            assert params.variant(trial.method).steps >= FULL.steps


def test_a_result_of_other_settings_is_none(tmp_path: Path) -> None:
    trial = TABLES["main"].trials()[0]
    result = read_result(RESULTS, trial, FULL)
    assert result is not None

    write_result(tmp_path, result)
    assert read_result(tmp_path, trial, FULL) == result

    file = result_file(tmp_path, trial)
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"settings": "another"}), encoding="utf-8")
    assert read_result(tmp_path, trial, FULL) is None
    assert trial in pending(TABLES["main"], tmp_path)


def test_the_committed_page_is_that_of_the_committed_results(tmp_path: Path) -> None:
    write_page(RESULTS, tmp_path)

    assert (tmp_path / "evidence.md").read_text(encoding="utf-8") == (
        REPOSITORY / "docs" / "evidence.md"
    ).read_text(encoding="utf-8")


def test_the_main_table_is_whole() -> None:
    assert pending(TABLES["main"], RESULTS) == []


def test_a_confounded_set_is_a_form_of_its_source() -> None:
    plain, night = (settings(Trial("mosaic", of, "lora", 0), FULL) for of in ("plain", "night"))

    assert plain["styles"]["mosaic_plain"]["source"] == "sketchbook:mosaic"
    assert night["styles"]["mosaic_night"]["source"] == "sketchbook:mosaic+night"
