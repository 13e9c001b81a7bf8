"""The benchmark's command, on trials that are much too small to say anything."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.evidence import matrix
from benchmarks.evidence.choice import area, curves, table_of, write_choice
from benchmarks.evidence.comparison import CONTENT, LEAK, STYLE
from benchmarks.evidence.matrix import (
    AS_SET,
    CHOOSING_SEEDS,
    FULL,
    ORDINARY,
    REDUCED,
    TABLES,
    Trial,
    Tuning,
    digest,
    settings,
)
from benchmarks.evidence.page import write_page
from benchmarks.evidence.results import RESULTS, Result, read_result, result_file, write_result
from benchmarks.evidence.run import pending
from benchmarks.evidence.trial import workspace_of
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
                other = read_result(folder, replace(trial, drawing="d_1_5"), REDUCED)
                assert other is not None
                assert other.training == result.training  # one training, drawn twice
                assert other.pictures != result.pictures
            row = f"| `{method}` | {statistics.fmean(values):.2f} ("
            assert row in page.split(f"## {of.capitalize()}")[1], row
        assert (folder / "images" / f"evidence_{of}.jpg").stat().st_size > 1000
        assert (folder / "images" / f"evidence_{of}_rates.png").stat().st_size > 1000


def test_settings_of_every_trial_are_valid() -> None:
    reported = [t for t in TABLES["chosen"].trials() if (t.style, t.seed) == ("mosaic", 0)]
    searched = [t for t in TABLES["search"].trials() if (t.style, t.set) == ("mosaic", "night")]
    for trial in (*reported, *searched):
        params = parse_params(settings(trial, FULL))
        assert params.variant(trial.variant).steps >= FULL.steps
        assert params.seed == (trial.seed in CHOOSING_SEEDS)


def test_drawings_of_a_training_share_its_workspace_and_nothing_else_does() -> None:
    trial = TABLES["search"].trials()[0]
    drawn = replace(trial, drawing="be_0_5")
    tuned = replace(trial, tuning=Tuning(0.01))
    reported = replace(trial, seed=0)
    asked = [settings(t, FULL) for t in (trial, drawn, tuned, reported)]
    places = [workspace_of(Path("work"), one).root for one in asked]
    assert places[0] == places[1] == places[2] != places[3]
    assert len({digest(one) for one in asked}) == 4
    assert trial.variant == drawn.variant != tuned.variant
    assert len({result_file(Path("results"), t) for t in (trial, drawn, tuned, reported)}) == 4


def test_what_is_chosen_is_trained_and_drawn_at(tmp_path: Path) -> None:
    """Of two rates the one with the larger area; of its drawings the one nearest to the aim."""
    search = replace(
        TABLES["search"], styles=("mosaic",), sets=("night",), methods=("lora",), seeds=(10,),
        tunings=(AS_SET, Tuning(0.01)), further={}, drawings=(ORDINARY, "d_1_5", "d_2"),
    )  # fmt: skip
    found = {  # style and content
        AS_SET: [(0.1, 0.9), (0.3, 0.8), (0.6, 0.5)],
        Tuning(0.01): [(0.2, 0.9), (0.7, 0.9), (0.9, 0.6)],
    }
    for trial in search.trials():
        style, content = found[trial.tuning][search.drawings.index(trial.drawing)]
        write_result(tmp_path, made_up(trial, {STYLE: [style], CONTENT: [content], LEAK: [0.0]}))
    assert not pending(search, tmp_path)
    curve = curves(tmp_path, search)["lora"]
    assert area(curve[AS_SET]) == pytest.approx(0.5 * 0.6 + 0.3 * 0.3 + 0.1 * 0.1)
    assert area(curve[Tuning(0.01)]) == pytest.approx(0.6 * 0.9 + 0.3 * 0.7)
    (line,) = write_choice(tmp_path, search)
    assert "rate_0_01_steps_1, d_1_5" in line
    chosen = table_of("chosen", tmp_path)
    ways = {(trial.method, trial.tuning, trial.drawing) for trial in chosen.trials()}
    assert ways == {("lora", Tuning(0.01), drawing) for drawing in (ORDINARY, "d_1_5")}


def test_a_rate_with_fewer_trainings_is_not_chosen_yet(tmp_path: Path) -> None:
    """The better rate has one of two styles; what is half searched decides nothing."""
    search = replace(
        TABLES["search"], styles=("mosaic", "woodblock"), methods=("lora",), seeds=(10,),
        drawings=(ORDINARY, "d_2"),
    )  # fmt: skip
    for trial in search.trials():
        if trial.tuning == AS_SET or trial.style == "mosaic":
            pictures = {STYLE: [0.2 if trial.tuning == AS_SET else 0.9], CONTENT: [1.0]}
            write_result(tmp_path, made_up(trial, pictures))
    (line,) = write_choice(tmp_path, search)
    assert line.startswith("lora: rate_0_003_steps_1")


def test_the_second_seed_is_of_what_was_better_at_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not whole at the first seed has nothing at the second yet."""
    search = replace(TABLES["search"], styles=("mosaic",), methods=("lora", "nsync"))
    monkeypatch.setitem(TABLES, "search", search)
    first, second = search.seeds
    for trial in replace(search, seeds=(first,)).trials():
        style = 0.9 if trial.tuning != AS_SET else 0.2
        if trial.method == "lora" or trial.tuning != AS_SET:
            write_result(tmp_path, made_up(trial, {STYLE: [style], CONTENT: [1.0]}))
    at_second = [trial for trial in table_of("search", tmp_path).trials() if trial.seed == second]
    assert {(t.method, t.tuning) for t in at_second} == {("lora", Tuning(0.01))}
    assert len(at_second) == len(search.drawings)

    # The other rate, better at the first seed alone, is not chosen: it was tried less.
    for trial in at_second:
        write_result(tmp_path, made_up(trial, {STYLE: [0.0], CONTENT: [1.0]}))
    lines = write_choice(tmp_path, replace(search, methods=("lora",)))
    assert lines[0].startswith("lora: rate_0_01_steps_1")


def made_up(trial: Trial, pictures: dict[str, list[float]]) -> Result:
    return Result(
        trial.style, trial.set, trial.method, trial.seed, **asdict(trial.tuning),
        drawing=trial.drawing, settings=digest(settings(trial, FULL)), pictures=pictures,
        figures={}, training={}, made_with={},
    )  # fmt: skip


def test_a_result_of_other_settings_or_of_another_base_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = TABLES["chosen"].trials()[0]
    result = made_up(trial, {STYLE: [0.5], CONTENT: [1.0], LEAK: [0.0]})
    write_result(tmp_path, result)
    assert read_result(tmp_path, trial, FULL) == result
    with monkeypatch.context() as other:
        other.setattr(matrix, "_base", lambda: "another")
        assert read_result(tmp_path, trial, FULL) is None

    file = result_file(tmp_path, trial)
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"settings": "another"}), encoding="utf-8")
    assert read_result(tmp_path, trial, FULL) is None
    assert trial in pending(TABLES["chosen"], tmp_path)


def test_the_committed_page_is_that_of_the_committed_results(tmp_path: Path) -> None:
    write_page(RESULTS, tmp_path)

    assert (tmp_path / "evidence.md").read_text(encoding="utf-8") == (
        REPOSITORY / "docs" / "evidence.md"
    ).read_text(encoding="utf-8")


def test_a_confounded_set_is_a_form_of_its_source() -> None:
    plain, night = (settings(Trial("mosaic", of, "lora", 0), FULL) for of in ("plain", "night"))

    assert plain["styles"]["mosaic_plain"]["source"] == "sketchbook:mosaic"
    assert night["styles"]["mosaic_night"]["source"] == "sketchbook:mosaic+night"
