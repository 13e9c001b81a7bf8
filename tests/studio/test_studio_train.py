"""Training: settings as a form, presets, starting, stopping, and what is seen of it."""

import io
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from nsync_pipeline.adaptation.saved_steps import ChosenStep, weights_digest
from nsync_pipeline.doctor.memory import CARDS, card_presets
from nsync_pipeline.errors import WorkspaceBusyError
from nsync_pipeline.graph.artefacts import Graph
from nsync_pipeline.graph.locks import sole_writer
from nsync_pipeline.params import read_params
from nsync_pipeline.settings_file import with_values
from nsync_pipeline.studio import jobs as of_jobs
from nsync_pipeline.studio.jobs import Jobs, Kind, making
from nsync_pipeline.studio.settings_form import asked_values, settings_groups
from nsync_pipeline.workspace import LORA_FILE, Workspace, step_folder
from tests.support.studio import said, text_of, trained_with_steps


def values_of(workspace: Workspace) -> dict[str, str]:
    """What a form that nobody touched sends: a switch that is off sends nothing."""
    groups = settings_groups(read_params(workspace.params_file), "hills")
    return {
        setting.key: setting.value
        for group in groups
        for setting in group.settings
        if setting.input != "switch" or setting.value == "true"
    }


def test_a_form_that_nobody_touched_changes_nothing(workspace: Workspace) -> None:
    groups = settings_groups(read_params(workspace.params_file), "hills")
    assert asked_values(groups, values_of(workspace)) == {}
    keys = [setting.key for group in groups for setting in group.settings]
    assert len(keys) == len(set(keys)) > 80
    assert all(setting.description for group in groups for setting in group.settings)


@pytest.mark.parametrize(
    ("key", "answer", "value"),
    [
        ("training.steps", "77", 77),
        ("training.learning_rate", "1e-4", 1e-4),
        ("training.max_gradient_norm", "", None),
        ("training.shared_noise", "true", True),
        ("training.schedule", "linear", "linear"),
        ("training.lora.targets", "[to_q, to_k]", ("to_q", "to_k")),
        ("base_model.resolution", "512", 512),
        ("styles.hills.style_words", "cow, brown\r\n\r\n by Ann: 3 ", ("cow, brown", "by Ann: 3")),
        ("styles.hills.rights", "mine: all of it", "mine: all of it"),
    ],
)
def test_an_answer_becomes_the_setting(
    studio: TestClient, workspace: Workspace, key: str, answer: str, value: object
) -> None:
    page = studio.post("/styles/hills/settings", data={**values_of(workspace), key: answer})
    assert said(str(page.url)) == f"Saved in params.yaml: {key}."
    found: object = read_params(workspace.params_file)
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    text = workspace.params_file.read_text()
    assert "# The settings of the tests." in text
    assert "placeholder: hls  # the word" in text


@pytest.mark.parametrize(
    ("key", "answer", "why"),
    [
        ("training.steps", "many", "training.steps: &#39;many&#39; is not allowed"),
        ("training.steps", "0", "greater than or equal to 1"),
        ("training.steps", "", "training.steps"),
        ("training.learning_rate", "[1", "cannot be read"),
        ("training.keep", "best", "keep is best"),
    ],
)
def test_a_wrong_answer_is_said_and_nothing_is_written(
    studio: TestClient, workspace: Workspace, key: str, answer: str, why: str
) -> None:
    before = workspace.params_file.read_bytes()
    page = studio.post("/styles/hills/settings", data={**values_of(workspace), key: answer})
    assert (page.status_code, why in page.text) == (400, True)
    assert workspace.params_file.read_bytes() == before


def test_a_short_form_leaves_the_switches_alone(studio: TestClient, workspace: Workspace) -> None:
    studio.post(
        "/styles/hills/settings", data={**values_of(workspace), "training.shared_noise": "true"}
    )
    form = {"only": "training.steps", "training.steps": "9", "training.seed": "3"}
    studio.post("/styles/hills/settings", data=form)
    training = read_params(workspace.params_file).training
    assert (training.steps, training.shared_noise) == (9, True)


def test_values_are_written_where_no_section_is_yet() -> None:
    text = with_values("a: 1  # one\n", {"b.c.d": 2, "b.e": None, "a": 3})
    assert text == "a: 3  # one\nb:\n  c:\n    d: 2\n  e: null\n"


def test_presets_are_the_doctors_estimate(workspace: Workspace) -> None:
    params = read_params(workspace.params_file)
    presets = card_presets(params)
    assert presets is not None
    assert [preset.card for preset in presets] == list(CARDS)
    assert all(preset.fits and not preset.changes for preset in presets)  # the embedded base
    # 4096 triplets in one pass fit no small card; what is saved of it keeps the samples a step.
    large = params.model_copy(
        update={"training": params.training.model_copy(update={"batch_size": 4096})}
    )
    small = (card_presets(large) or [])[0]
    assert small.fits
    assert small.changes["training.branches"] == "in_turn"
    if "training.batch_size" in small.changes:
        both = small.changes["training.batch_size"], small.changes["training.accumulation"]
        assert int(both[0]) * int(both[1]) == 4096


def test_presets_are_shown(studio: TestClient) -> None:
    page = text_of(studio.get("/styles/hills/presets").text)
    assert "8 GB" in page
    assert "80 GB" in page
    assert "as it is set" in page


def test_the_command_is_the_engines_own(workspace: Workspace) -> None:
    assert making(workspace, "hills", ("lora",), (0, 1)) == (
        *of_jobs.NSYNC, "make", "hills", "--variant", "lora", "--training-seed", "0",
        "--training-seed", "1",
    )  # fmt: skip
    with sole_writer(workspace.lock("dagster-daemon"), "a history"):  # as `nsync ui` holds it
        command = making(workspace, "hills", (), ())
    assert command[1:] == ("-m", "nsync_assets.demo", "--style", "hills")


def start(jobs: Jobs, code: str) -> None:
    jobs.start(Kind.MAKE, "hills", "A job", (sys.executable, "-S", "-c", code))


def ended(jobs: Jobs) -> None:
    assert jobs.wait(Kind.MAKE, 30)


def test_a_job_says_what_it_said_and_how_it_ended(workspace: Workspace) -> None:
    jobs = Jobs(workspace)
    assert jobs.job(Kind.MAKE) is None
    start(jobs, "print('hello')")
    ended(jobs)
    job = jobs.job(Kind.MAKE)
    assert job is not None
    assert (job.exit_code, job.log, job.problem, job.record.style) == (0, "hello\n", "", "hills")
    start(jobs, "import sys; print('nsync: no captions:\\n  - a.png'); sys.exit(2)")
    ended(jobs)
    job = jobs.job(Kind.MAKE)
    assert job is not None
    assert (job.exit_code, job.problem) == (2, "no captions:\n  - a.png")


SLOW = "import time; print('on', flush=True); time.sleep(60)"


def until_it_is_on(jobs: Jobs) -> None:
    limit = time.monotonic() + 20
    while "on" not in getattr(jobs.job(Kind.MAKE), "log", ""):
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_one_at_a_time_and_stopped_when_asked(workspace: Workspace) -> None:
    jobs = Jobs(workspace)
    start(jobs, SLOW)
    until_it_is_on(jobs)
    with pytest.raises(WorkspaceBusyError, match="A job is under way"):
        start(jobs, SLOW)
    assert jobs.stop(Kind.MAKE)
    ended(jobs)
    job = jobs.job(Kind.MAKE)
    assert job is not None
    assert job.exit_code not in (None, 0)
    assert not jobs.stop(Kind.MAKE)


def test_a_studio_that_is_started_anew_finds_its_job(workspace: Workspace) -> None:
    start(Jobs(workspace), SLOW)
    again = Jobs(workspace)
    until_it_is_on(again)
    assert again.running(Kind.MAKE) is not None
    assert again.stop(Kind.MAKE)
    ended(again)


def test_another_process_of_the_same_number_is_not_taken_for_it(workspace: Workspace) -> None:
    jobs = Jobs(workspace)
    start(jobs, "pass")
    ended(jobs)
    folder = workspace.state / "studio" / "jobs"
    (folder / "make.rc").unlink()  # it was killed, and this process has got its number
    text = (folder / "make.json").read_text()
    (folder / "make.json").write_text(re.sub(r'"process": \d+', f'"process": {os.getpid()}', text))
    job = jobs.job(Kind.MAKE)
    assert job is not None
    assert not job.is_running
    assert job.exit_code is None


def test_starting_a_training(
    studio: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        Jobs, "start", lambda self, kind, style, title, command: started.append(command)
    )
    url = "/styles/hills/train"
    assert studio.post(url, data={"variant": ["lora", "nsync"]}).url.path.endswith("/watch")
    studio.post(url, data={"variant": "lora", "training_seeds": "0, 2"})
    assert started[0][-2:] == ("make", "hills")
    assert started[1][-3:] == ("hills", "--variant", "lora")
    assert read_params(workspace.params_file).training_seeds == (0, 2)
    for form, why in (({}, "at least one"), ({"variant": "x"}, "variant"),
                      ({"variant": "lora", "training_seeds": "a"}, "whole numbers")):  # fmt: skip
        page = studio.post(url, data=form)
        assert (page.status_code, why in page.text) == (400, True)
    assert len(started) == 2


def test_the_page_says_what_lacks_captions(studio: TestClient) -> None:
    assert "1 of 4 pictures have no caption" in text_of(studio.get("/styles/hills/train").text)


def test_a_training_that_failed_says_why(studio: TestClient, workspace: Workspace) -> None:
    jobs = Jobs(workspace)
    start(jobs, "print('nsync: the disk is full'); raise SystemExit(2)")
    ended(jobs)
    page = text_of(studio.get("/styles/hills/watch/live").text)
    assert "It did not work. the disk is full Try again" in page
    assert "failed" in studio.get("/").text


def live(workspace: Workspace, rows: int = 3) -> Path:
    """What a training under way has written, the last row half."""
    folder = workspace.scratch("live", "hills", "nsync", "0")
    (folder / "looks").mkdir(parents=True)
    lines = [f"{step},{1 / step}\n" for step in range(1, rows + 1)]
    (folder / "history.csv").write_text("step,loss_positive\n" + "".join(lines) + "4,")
    (folder / "held_out.csv").write_text("step,loss\n0,0.5\n2,0.4\n")
    (folder / "looks.csv").write_text("step,style_margin,standard_error,pictures\n2,0.25,,3\n")
    for step in (0, 2):
        (folder / "looks" / f"{step:08d}.jpg").write_bytes(b"\xff\xd8 a picture")
    return folder


def test_what_a_training_writes_on_the_way_is_shown(
    studio: TestClient, workspace: Workspace
) -> None:
    live(workspace)
    page = studio.get("/styles/hills/watch/live").text
    assert page.count("<svg") == 3
    assert "step 2" in page
    assert "score 0.250" in page
    assert "stopped" in page
    look = "/styles/hills/look?run=nsync-0&where=live&step="
    assert studio.get(f"{look}2").content.startswith(b"\xff\xd8")
    for bad in ("7", "x", "../2", ""):
        assert studio.get(f"{look}{bad}").status_code == 404
    assert studio.get("/styles/hills/look?run=../x&where=live&step=2").status_code == 404


def test_what_has_ended_is_shown_as_its_artefact_has_it(
    studio: TestClient, workspace: Workspace
) -> None:
    """Out of date or not; the looks on the way are gone then."""
    on_the_way = live(workspace)
    shutil.rmtree(on_the_way / "looks")
    folder = workspace.model("hills", "nsync", 0)
    (folder / "looks").mkdir(parents=True)
    (folder / "looks" / "00000040.jpg").write_bytes(b"\xff\xd8 a picture")
    shutil.copy(on_the_way / "history.csv", folder / "history.csv")
    os.utime(on_the_way / "history.csv", (1, 1))
    page = studio.get("/styles/hills/watch/live").text
    assert "step 40" in page
    assert "out of date" in page


def test_the_queue_is_the_graphs(studio: TestClient, workspace: Workspace) -> None:
    page = text_of(studio.get("/styles/hills/watch/live").text)
    titles = [artefact.stage.name for artefact in Graph.read(workspace).artefacts("hills")]
    assert page.count("to be made") - 1 == len(titles) == 10  # one is the heading


def test_looks_are_shown_by_prompt_over_the_steps(studio: TestClient, workspace: Workspace) -> None:
    trained_with_steps(workspace)
    page = studio.get("/styles/hills/watch/live").text
    assert "step 10 step 20 step 40 a hill" in text_of(page)
    assert "a &lt;cat&gt; (your own)" in page
    look = "/styles/hills/look?run=nsync-0&where=artefact&step=20&place="
    for place, blue in ((0, 0), (1, 200)):
        with Image.open(io.BytesIO(studio.get(f"{look}{place}").content)) as cell:
            assert (cell.format, 64 <= cell.width <= 72) == ("PNG", True)
            middle = np.asarray(cell.convert("RGB")).astype(int)[cell.height // 2, cell.width // 2]
            assert np.abs(middle - (20, 0, blue)).max() < 12  # it was a JPEG
    for bad in ("2", "x", "-1"):
        assert studio.get(f"{look}{bad}").status_code == 404


def test_one_of_the_saved_weights_is_chosen_and_used(
    studio: TestClient, workspace: Workspace
) -> None:
    model = trained_with_steps(workspace)
    page = studio.get("/styles/hills/watch").text
    assert "step 40 , the last in use" in text_of(page)
    assert "compare?c=nsync@10&c=nsync@20&c=nsync@40" in page.replace("&amp;", "&")
    url = "/styles/hills/choose"
    answer = studio.post(url, data={"run": "nsync-0", "step": "20"})
    assert "Step 20 of nsync-0 is used from now on" in text_of(answer.text)
    assert "step 20 in use" in text_of(answer.text)
    chosen = read_params(workspace.params_file).style("hills").use_steps["nsync-0"]
    assert chosen == ChosenStep(step=20, weights=weights_digest(step_folder(model, 20)))
    assert "as after step 20, which you chose" in text_of(studio.get("/styles/hills/home").text)
    compare = studio.get("/styles/hills/compare?c=nsync@10").text
    assert 'value="nsync@10" checked' in compare
    assert 'value="nsync@20">' in compare

    (step_folder(model, 20) / LORA_FILE).write_text("trained anew")
    page = text_of(studio.get("/styles/hills/watch/live").text)
    assert "step 20 of nsync-0 was chosen when its weights were others" in page
    studio.post(url, data={"run": "nsync-0", "step": "40"})
    assert read_params(workspace.params_file).style("hills").use_steps == {}
    for form in ({"run": "nsync-0", "step": "30"}, {"run": "nsync-0", "step": "x"},
                 {"run": "x-0", "step": "20"}, {}):  # fmt: skip
        assert studio.post(url, data=form).status_code == 400
    outside = studio.post(
        url, data={"run": "nsync-0", "step": "20"}, headers={"Origin": "http://x"}
    )
    assert outside.status_code == 403
